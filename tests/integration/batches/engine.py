"""A fake embedding engine for the service as a process: `EMBED_BACKEND=tests.integration.batches.engine.factory`.

It takes a while for each request, and appends the inputs that it has computed to the file ENGINE_JOURNAL.
"""

import os
from typing import cast

from app.settings import Settings
from domain.port import RequestContext
from domain.requests import EmbeddingRequest, Request, ResultT
from domain.roles import Role
from tests.fakes import FakeBackend

DELAY_S = 0.1


class JournalBackend(FakeBackend):
    """Writes down what it has computed."""

    def __init__(self, role: Role, journal: str) -> None:
        super().__init__(role, name="fake-embed", delay_s=DELAY_S)
        self._journal = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def call(self, request: Request[ResultT], context: RequestContext) -> ResultT:
        result = await super().call(request, context)
        inputs = cast(EmbeddingRequest, request).inputs
        os.write(self._journal, "".join(f"{each}\n" for each in inputs).encode())
        return result


def factory(role: Role, _settings: Settings) -> JournalBackend:
    return JournalBackend(role, os.environ["ENGINE_JOURNAL"])
