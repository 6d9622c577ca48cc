"""What is asked of a server, over and over."""

import itertools
import re
from typing import Literal

import msgspec

from app.commands.bench.http_client import Answer, Target
from domain.roles import Role

DISTINCT = 997
"""Different texts, so that neither prefixes nor vectors come from a cache; a prime, so that clients spread."""
_COMPLETION_TOKENS = re.compile(rb'"(?:completion|output)_tokens":\s*(\d+)')
_LAST_EVENT = b"\nevent: response.incomplete\n"
"""Ends a response that reached its token limit."""


Api = Literal["completions", "chat", "responses", "stored responses"]
PATHS: dict[Api, str] = {
    "completions": "/v1/completions",
    "chat": "/v1/chat/completions",
    "responses": "/v1/responses",
    "stored responses": "/v1/responses",
}


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """A server, or a pair of them, that is measured."""

    name: str
    embed_url: str
    gen_url: str
    embed_model: str
    gen_model: str
    processes: tuple[int, ...] = ()
    """Ids of its processes, those of its engines included, where they run on this machine."""
    api: Api = "completions"
    """API used for generation."""

    def url(self, role: Role) -> str:
        """Where a role is served."""
        return self.embed_url if role is Role.EMBED else self.gen_url


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of request from so many clients."""

    name: str
    role: Role
    clients: int
    tokens: int = 0
    """Tokens that each completion has; 0 for embeddings."""
    stream: bool = False
    shows_special_tokens: bool = False
    """Whether special tokens have a text too: what weights that mean nothing write may be nothing else."""
    requests: int | None = None
    """How many requests make a round; None leaves it to time."""

    def bodies(self, side: Side) -> list[bytes]:
        """Requests to take in turn, whole as they go over the wire."""
        target, path = Target.of(side.url(self.role)), self.path(side)
        return [target.post(path, msgspec.json.encode(body), {}) for body in self.fields(side)]

    def path(self, side: Side) -> str:
        """The endpoint."""
        return "/v1/embeddings" if self.role is Role.EMBED else PATHS[side.api]

    def fields(self, side: Side) -> list[dict[str, object]]:
        """The bodies of the requests, before they are encoded."""
        return [self._body(side, text) for text in _texts()]

    def _body(self, side: Side, text: str) -> dict[str, object]:
        if self.role is Role.EMBED:
            return {"model": side.embed_model, "input": text, "encoding_format": "base64"}
        body: dict[str, object] = {"model": side.gen_model, "temperature": 0, "ignore_eos": True}
        if self.shows_special_tokens:
            body["skip_special_tokens"] = False
        if side.api in ("responses", "stored responses"):
            is_stored = side.api == "stored responses"
            body |= {"input": text, "max_output_tokens": self.tokens, "store": is_stored}
            return body | ({"stream": True} if self.stream else {})
        body["max_tokens"] = self.tokens
        if side.api == "chat":
            body["messages"] = [{"role": "user", "content": text}]
        else:
            body["prompt"] = text
        return body | ({"stream": True, "stream_options": {"include_usage": True}} if self.stream else {})

    def is_right(self, answer: Answer) -> bool:
        """Whether an answer is whole and what was asked for: speed with wrong answers is no speed."""
        if answer.status != 200:
            return False
        if self.role is Role.EMBED:
            return b'"embedding":"' in answer.body.replace(b" ", b"")[:400] and answer.body.endswith(b"}")
        if self.stream and not answer.body.endswith(b"data: [DONE]\n\n") and _LAST_EVENT not in answer.body:
            return False
        told = _COMPLETION_TOKENS.findall(answer.body[-600:])
        return bool(told) and int(told[-1]) == self.tokens

    def with_clients(self, clients: int) -> "Workload":
        """The same from another number of clients."""
        what, plural = self.name.rsplit(",", 1)[0], "" if clients == 1 else "s"
        return msgspec.structs.replace(self, name=f"{what}, {clients} client{plural}", clients=clients)


EMBEDDINGS = Workload(name="embeddings, 64 clients", role=Role.EMBED, clients=64)
COMPLETIONS = Workload(name="completions of 1 token, 64 clients", role=Role.GENERATE, clients=64, tokens=1)
STREAMS = Workload(
    name="streams of 128 tokens, 64 clients", role=Role.GENERATE, clients=64, tokens=128, stream=True, requests=256
)
EMBEDDINGS_1 = EMBEDDINGS.with_clients(1)
COMPLETIONS_1 = COMPLETIONS.with_clients(1)
ANSWERS = Workload(name="answers of 1 token, 64 clients", role=Role.GENERATE, clients=64, tokens=1)
"""For one service whose APIs are compared."""
CANNED = Workload(name="canned answers, 64 clients", role=Role.GENERATE, clients=64, tokens=1)
"""For gateways in front of a server that answers at once."""
CANNED_1 = CANNED.with_clients(1)
ALL = (EMBEDDINGS, COMPLETIONS, STREAMS, EMBEDDINGS_1, COMPLETIONS_1)
SWEEP = (1, 4, 16, 64)


def _texts() -> list[str]:
    animals = itertools.cycle(["fox", "dog", "cat", "owl", "bear"])
    return [
        f"Note {number}: the quick brown {next(animals)} jumps over {number * 7 % 31} lazy dogs in the warm sun."
        for number in range(DISTINCT)
    ]
