"""From the deltas of an engine to OpenAI's chat objects, the same for every engine."""

from collections.abc import Iterator

import msgspec

from domain.conversation import Conversation, ToolChoice
from domain.openai.chat_response import (
    UNSET,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatFinishReason,
    ChatMessage,
    ChatToolCall,
    ToolCallFunction,
    chat_logprobs,
)
from domain.openai.common import UsageCounter
from domain.results import FinishReason, GenerationDelta, GenerationUsage, TokenLogprob, ToolCallDelta


class ChatPresenter:
    """Turns the events of one request into one answer or a series of chunks."""

    def __init__(
        self,
        *,
        completion_id: str,
        created: int,
        model: str,
        conversation: Conversation,
        top_logprobs: int,
        include_usage: bool,
    ) -> None:
        self._id = completion_id
        self._created = created
        self._model = model
        self._top_logprobs = top_logprobs
        # OpenAI ends a call that the client has named itself with "stop".
        self._calls_end_with = (
            ChatFinishReason.STOP if conversation.tool_choice is ToolChoice.NAMED else ChatFinishReason.TOOL_CALLS
        )
        self._one_call = not conversation.parallel_tool_calls
        # Log probabilities of what was thought would tell it.
        self._tells_reasoning = conversation.include_reasoning
        # Absent from chunks unless asked for; then null on all but the last.
        self._chunk_usage: None | msgspec.UnsetType = None if include_usage else UNSET
        self._usage = UsageCounter()
        self._begun: set[int] = set()
        self._called: set[int] = set()

    def count(self, usage: GenerationUsage) -> None:
        """Keep what the request took."""
        self._usage.add(usage)

    def chunks(self, delta: GenerationDelta) -> Iterator[ChatChunk]:
        """The chunks for one delta: one with the role before a choice's first, one with the reason at its end."""
        index = delta.index
        calls = self._calls(delta)
        if index not in self._begun:
            self._begun.add(index)
            content = None if calls and not delta.text else ""
            yield self._chunk(index, ChatDelta(role="assistant", content=content, refusal=None))
        gained = ChatDelta(
            content=delta.text or UNSET,
            reasoning_content=(delta.reasoning if self._tells_reasoning else "") or UNSET,
            tool_calls=[_call_part(call) for call in calls] or UNSET,
        )
        logprobs = delta.logprobs if self._tells_reasoning else None
        if logprobs or delta.text or gained.reasoning_content or calls:
            yield self._chunk(index, gained, logprobs=logprobs)
        if delta.finish_reason is not None:
            yield self._chunk(index, ChatDelta(), finish_reason=self._reason(index, delta.finish_reason))

    def usage_chunk(self) -> ChatChunk:
        """The last chunk of a stream with `include_usage`: no choice, and the usage."""
        return ChatChunk(
            id=self._id, created=self._created, model=self._model, choices=[], usage=self._usage.total()
        )

    def whole(self, deltas: list[GenerationDelta]) -> ChatCompletion:
        """The answer for all deltas, given in the order in which they came."""
        parts: dict[int, _ChoiceParts] = {}
        for delta in deltas:
            parts.setdefault(delta.index, _ChoiceParts()).add(delta, self._calls(delta))
        return ChatCompletion(
            id=self._id,
            created=self._created,
            model=self._model,
            choices=[self._choice(index, choice) for index, choice in sorted(parts.items())],
            usage=self._usage.total(),
        )

    def _choice(self, index: int, parts: "_ChoiceParts") -> ChatChoice:
        text = "".join(parts.texts)
        reasoning = "".join(parts.reasoning) if self._tells_reasoning else ""
        calls = [_whole_call(call) for _, call in sorted(parts.calls.items())]
        message = ChatMessage(
            # Null where a call takes the place of words, or where all of it was thinking.
            content=text if text or not (calls or reasoning) else None,
            reasoning_content=reasoning or UNSET,
            tool_calls=calls or UNSET,
        )
        return ChatChoice(
            index=index,
            message=message,
            logprobs=chat_logprobs(parts.logprobs if self._tells_reasoning else None, self._top_logprobs),
            finish_reason=self._reason(index, parts.finish_reason) if parts.finish_reason else None,
        )

    def _calls(self, delta: GenerationDelta) -> list[ToolCallDelta]:
        calls = delta.tool_calls
        if self._one_call:
            calls = [call for call in calls if call.index == 0]
        if calls:
            self._called.add(delta.index)
        return calls

    def _reason(self, index: int, reason: FinishReason) -> ChatFinishReason:
        if reason is FinishReason.STOP and index in self._called:
            return self._calls_end_with
        return ChatFinishReason(reason)

    def _chunk(
        self,
        index: int,
        delta: ChatDelta,
        *,
        logprobs: list[TokenLogprob] | None = None,
        finish_reason: ChatFinishReason | None = None,
    ) -> ChatChunk:
        choice = ChatChunkChoice(
            index=index,
            delta=delta,
            logprobs=chat_logprobs(logprobs, self._top_logprobs),
            finish_reason=finish_reason,
        )
        return ChatChunk(
            id=self._id, created=self._created, model=self._model, choices=[choice], usage=self._chunk_usage
        )


class _ChoiceParts:
    """What has come of one choice so far."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.reasoning: list[str] = []
        self.calls: dict[int, ToolCallDelta] = {}
        self.logprobs: list[TokenLogprob] | None = None
        self.finish_reason: FinishReason | None = None

    def add(self, delta: GenerationDelta, calls: list[ToolCallDelta]) -> None:
        self.texts.append(delta.text)
        self.reasoning.append(delta.reasoning)
        for call in calls:
            known = self.calls.get(call.index)
            self.calls[call.index] = call if known is None else _joined(known, call)
        if delta.logprobs is not None:
            self.logprobs = [*(self.logprobs or []), *delta.logprobs]
        self.finish_reason = delta.finish_reason or self.finish_reason


def _joined(known: ToolCallDelta, more: ToolCallDelta) -> ToolCallDelta:
    return ToolCallDelta(
        index=known.index,
        id=known.id or more.id,
        name=known.name or more.name,
        arguments=known.arguments + more.arguments,
    )


def _whole_call(call: ToolCallDelta) -> ChatToolCall:
    return ChatToolCall(
        id=call.id or "",
        type="function",
        function=ToolCallFunction(name=call.name or "", arguments=call.arguments),
    )


def _call_part(call: ToolCallDelta) -> ChatToolCall:
    function = ToolCallFunction(name=call.name or UNSET, arguments=call.arguments)
    if call.id is None:
        return ChatToolCall(index=call.index, function=function)
    return ChatToolCall(index=call.index, id=call.id, type="function", function=function)
