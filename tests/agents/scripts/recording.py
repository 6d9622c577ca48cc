"""What the scripts in this folder share: they print one JSON object per line, which the tests read."""

import json
from typing import Any

MODEL = "SmolLM2-135M-Instruct"


def report(step: str, **facts: Any) -> None:
    """Print what happened in a step."""
    print(json.dumps({"step": step, **facts}))


class Recording:
    """The bodies of all requests of an HTTP client, as its hook."""

    def __init__(self) -> None:
        self._bodies: list[Any] = []

    def note(self, request: Any) -> None:
        """The hook of a client."""
        content = request.read()
        self._bodies.append({"path": request.url.path, "body": json.loads(content) if content else None})

    async def anote(self, request: Any) -> None:
        """The hook of an asynchronous client."""
        await request.aread()
        self.note(request)

    def take(self) -> list[Any]:
        """The requests since the last call."""
        taken, self._bodies = self._bodies, []
        return taken
