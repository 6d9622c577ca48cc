"""The framework-free core of the service: the port, requests, OpenAI's schemas and policies."""
