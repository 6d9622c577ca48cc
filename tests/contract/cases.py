"""Backends under test, with the properties that the contract tests need."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from domain.conversation import Conversation
from domain.port import InferenceBackend, RequestContext
from domain.requests import GenerationRequest
from domain.results import GenerationDelta, GenerationUsage, ToolCallDelta
from domain.sampling import SamplingParameters
from tests.calls import events_of


class Case(msgspec.Struct, kw_only=True):
    """One backend of one role."""

    name: str
    backend: InferenceBackend
    tokenize: Callable[[str], list[int]]
    """Token ids of a text, from the model's own tokenizer."""
    vocabulary: int
    lengths: tuple[int, ...]
    """Vector lengths that an embedding model was trained for, shortest first."""
    max_model_len: int
    folder: Path | None = None
    """Of the model; None for a fake."""
    is_fake: bool = False
    """Whether it is a fake: its output is unconstrained, and its reasoning never ends."""
    abort_s: float = 0.1
    """Maximum time to abort cancelled work, which is much shorter than the work."""
    running: Callable[[], Awaitable[int]]
    """Requests in progress, as the engine reports them."""


class Generated(msgspec.Struct, kw_only=True):
    """A complete generation."""

    deltas: list[GenerationDelta]
    usage: GenerationUsage

    def text(self, index: int = 0) -> str:
        return "".join(delta.text for delta in self.deltas if delta.index == index)

    def reasoning(self) -> str:
        return "".join(delta.reasoning for delta in self.deltas)

    def calls(self) -> list[ToolCallDelta]:
        """The complete tool calls."""
        calls: dict[int, ToolCallDelta] = {}
        for part in [call for delta in self.deltas for call in delta.tool_calls]:
            if part.index not in calls:
                assert part.id, "the first part of a call has its id"
                assert part.name, "and its name"
                calls[part.index] = part
            else:
                call = calls[part.index]
                assert part.id in (None, call.id), "later parts have the same id or none"
                calls[part.index] = msgspec.structs.replace(call, arguments=call.arguments + part.arguments)
        return [call for _, call in sorted(calls.items())]

    @property
    def finish_reason(self) -> str | None:
        return self.deltas[-1].finish_reason


CONTEXT = RequestContext(request_id="contract")


REQUEST_FIELDS = {"echo", "suffix", "truncate_prompt_tokens", "add_special_tokens"}


async def generate(
    case: Case, prompt: str | list[int] | Conversation, *, stream: bool = True, **fields
) -> Generated:
    """Generate to the end, and check the invariants of every event stream."""
    own = {name: fields.pop(name) for name in REQUEST_FIELDS & set(fields)}
    parameters = SamplingParameters(**{"max_tokens": 8, "temperature": 0.0} | fields)
    request = GenerationRequest(prompt=prompt, sampling=parameters, **own)
    events = await events_of(case.backend, request, CONTEXT, streams=stream)
    *deltas, usage = events
    assert isinstance(usage, GenerationUsage)
    assert all(isinstance(delta, GenerationDelta) for delta in deltas)
    assert all(delta.has_content for delta in deltas)
    for index in range(parameters.n):
        reasons = [delta.finish_reason for delta in deltas if delta.index == index]
        assert reasons[-1] is not None, "the last delta of a choice has its finish reason"
        assert all(reason is None for reason in reasons[:-1]), "and no delta before it does"
    return Generated(deltas=deltas, usage=usage)
