"""Creates, stores and continues responses of the Responses API."""
