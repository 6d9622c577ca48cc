"""The backends under contract, and what the tests need to know of each."""

from collections.abc import Awaitable, Callable

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
    """Token ids as the model itself would make them."""
    vocabulary: int
    lengths: tuple[int, ...]
    """Lengths of vectors that an embedder was trained for, shortest first."""
    max_model_len: int
    is_fake: bool = False
    """Whether no engine is behind it: nothing constrains what it writes, and it never ends its thinking."""
    abort_s: float = 0.1
    """What the engine may take to drop cancelled work: far less than it takes to do it."""
    running: Callable[[], Awaitable[int]]
    """Requests that the engine itself says it is working on."""


class Generated(msgspec.Struct, kw_only=True):
    """A generation heard to its end."""

    deltas: list[GenerationDelta]
    usage: GenerationUsage

    def text(self, index: int = 0) -> str:
        return "".join(delta.text for delta in self.deltas if delta.index == index)

    def reasoning(self) -> str:
        return "".join(delta.reasoning for delta in self.deltas)

    def calls(self) -> list[ToolCallDelta]:
        """The tool calls, their parts joined."""
        whole: dict[int, ToolCallDelta] = {}
        for part in [call for delta in self.deltas for call in delta.tool_calls]:
            if part.index not in whole:
                assert part.id, "the first part of a call has its id"
                assert part.name, "and its name"
                whole[part.index] = part
            else:
                known = whole[part.index]
                assert part.id in (None, known.id), "later parts have no other"
                whole[part.index] = msgspec.structs.replace(known, arguments=known.arguments + part.arguments)
        return [call for _, call in sorted(whole.items())]

    @property
    def finish_reason(self) -> str | None:
        return self.deltas[-1].finish_reason


CONTEXT = RequestContext(request_id="contract")


REQUEST_FIELDS = {"echo", "suffix", "truncate_prompt_tokens", "add_special_tokens"}


async def generate(
    case: Case, prompt: str | list[int] | Conversation, *, stream: bool = True, **fields
) -> Generated:
    """Generate to the end; checks what must hold of every event stream."""
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
        assert reasons[-1] is not None, "the last delta of a choice tells why it ended"
        assert all(reason is None for reason in reasons[:-1]), "and no delta before it does"
    return Generated(deltas=deltas, usage=usage)
