"""OpenAI's Responses API: bodies, items, events, and their translation to and from the domain's conversation."""
