"""What the service is about, with no framework in it: the port, the requests, OpenAI's shapes, the policies."""
