"""From results and events of an engine to OpenAI's chat objects, the same for every engine."""

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
from domain.openai.common import Usage, UsageCounter
from domain.results import (
    FinishReason,
    GenerationDelta,
    GenerationEvent,
    GenerationResult,
    GenerationUsage,
    TokenLogprob,
    ToolCallDelta,
)


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
        self.usage = UsageCounter()
        self._begun: set[int] = set()
        self._called: set[int] = set()

    def chunks(self, event: GenerationEvent, _prompt_index: int = 0) -> list[ChatChunk]:
        """The chunks for one event: one with the role before a choice's first, one with the reason at its end."""
        if isinstance(event, GenerationUsage):
            self.usage.add(event)
            return []
        index = event.index
        calls = self._calls(event)
        chunks: list[ChatChunk] = []
        if index not in self._begun:
            self._begun.add(index)
            content = None if calls and not event.text else ""
            chunks.append(self._chunk(index, ChatDelta(role="assistant", content=content, refusal=None)))
        gained = ChatDelta(
            content=event.text or UNSET,
            reasoning_content=(event.reasoning if self._tells_reasoning else "") or UNSET,
            tool_calls=[_call_part(call) for call in calls] or UNSET,
        )
        logprobs = event.logprobs if self._tells_reasoning else None
        if logprobs or event.text or gained.reasoning_content or calls:
            chunks.append(self._chunk(index, gained, logprobs=logprobs))
        if event.finish_reason is not None:
            reason = self._reason(index, event.finish_reason)
            chunks.append(self._chunk(index, ChatDelta(), finish_reason=reason))
        return chunks

    def last_chunks(self) -> list[ChatChunk]:
        """With `include_usage`, the last chunk: no choice, and the usage."""
        return [self._chunk_of([], usage=self.usage.total())] if self._chunk_usage is None else []

    def whole(self, result: GenerationResult) -> ChatCompletion:
        """The answer for a whole result."""
        self.usage.add(result.usage)
        return ChatCompletion(
            id=self._id,
            created=self._created,
            model=self._model,
            choices=[self._choice(choice) for choice in result.choices],
            usage=self.usage.total(),
        )

    def _choice(self, choice: GenerationDelta) -> ChatChoice:
        reasoning = choice.reasoning if self._tells_reasoning else ""
        calls = [_whole_call(call) for call in self._calls(choice)]
        message = ChatMessage(
            # Null where a call takes the place of words, or where all of it was thinking.
            content=choice.text if choice.text or not (calls or reasoning) else None,
            reasoning_content=reasoning or UNSET,
            tool_calls=calls or UNSET,
        )
        return ChatChoice(
            index=choice.index,
            message=message,
            logprobs=chat_logprobs(choice.logprobs if self._tells_reasoning else None, self._top_logprobs),
            finish_reason=self._reason(choice.index, choice.finish_reason) if choice.finish_reason else None,
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
        return self._chunk_of([choice], usage=self._chunk_usage)

    def _chunk_of(self, choices: list[ChatChunkChoice], *, usage: Usage | None | msgspec.UnsetType) -> ChatChunk:
        return ChatChunk(id=self._id, created=self._created, model=self._model, choices=choices, usage=usage)


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
