"""Converts results and events of any engine to OpenAI's chat completion objects."""

from typing import Literal

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
    """Converts the events of one request to one response or a series of chunks."""

    def __init__(
        self,
        *,
        completion_id: str,
        created: int,
        model: str,
        conversation: Conversation,
        top_logprobs: int,
        include_usage: bool,
        service_tier: Literal["flex"] | msgspec.UnsetType = UNSET,
    ) -> None:
        self._id = completion_id
        self._created = created
        self._model = model
        self._service_tier = service_tier
        self._top_logprobs = top_logprobs
        # OpenAI's finish reason is "stop" if the client named the function to call.
        self._calls_end_with = (
            ChatFinishReason.STOP if conversation.tool_choice is ToolChoice.NAMED else ChatFinishReason.TOOL_CALLS
        )
        self._is_single_call = not conversation.parallel_tool_calls
        # Without reasoning log probabilities are omitted too, as by vLLM's server: without the reasoning it is not
        # known which tokens are those of the text.
        self._includes_reasoning = conversation.include_reasoning
        # Absent from chunks by default; with `include_usage`, null on all but the last.
        self._chunk_usage: None | msgspec.UnsetType = None if include_usage else UNSET
        self.usage = UsageCounter()
        self._started: set[int] = set()
        self._called: set[int] = set()

    def chunks(self, event: GenerationEvent, _prompt_index: int = 0) -> list[ChatChunk]:
        """The chunks for one event; a choice's role and its finish reason each have a chunk of their own."""
        if isinstance(event, GenerationUsage):
            self.usage.add(event)
            return []
        index = event.index
        calls = self._calls(event)
        chunks: list[ChatChunk] = []
        if index not in self._started:
            self._started.add(index)
            content = None if calls and not event.text else ""
            chunks.append(self._chunk(index, ChatDelta(role="assistant", content=content, refusal=None)))
        delta = ChatDelta(
            content=event.text or UNSET,
            reasoning_content=(event.reasoning if self._includes_reasoning else "") or UNSET,
            tool_calls=[_call_part(call) for call in calls] or UNSET,
        )
        logprobs = event.logprobs if self._includes_reasoning else None
        if logprobs or event.text or delta.reasoning_content or calls:
            chunks.append(self._chunk(index, delta, logprobs=logprobs))
        if event.finish_reason is not None:
            reason = self._reason(index, event.finish_reason)
            chunks.append(self._chunk(index, ChatDelta(), finish_reason=reason))
        return chunks

    def last_chunks(self) -> list[ChatChunk]:
        """With `include_usage`, the last chunk, which has the usage and no choices."""
        return [self._chunk_of([], usage=self.usage.total())] if self._chunk_usage is None else []

    def whole(self, result: GenerationResult) -> ChatCompletion:
        """The response for a complete result."""
        self.usage.add(result.usage)
        return ChatCompletion(
            id=self._id,
            created=self._created,
            model=self._model,
            choices=[self._choice(choice) for choice in result.choices],
            usage=self.usage.total(),
            service_tier=self._service_tier,
        )

    def _choice(self, choice: GenerationDelta) -> ChatChoice:
        reasoning = choice.reasoning if self._includes_reasoning else ""
        calls = [_complete_call(call) for call in self._calls(choice)]
        message = ChatMessage(
            # Null if there are only tool calls or only reasoning.
            content=choice.text if choice.text or not (calls or reasoning) else None,
            reasoning_content=reasoning or UNSET,
            tool_calls=calls or UNSET,
        )
        return ChatChoice(
            index=choice.index,
            message=message,
            logprobs=chat_logprobs(choice.logprobs if self._includes_reasoning else None, self._top_logprobs),
            finish_reason=self._reason(choice.index, choice.finish_reason) if choice.finish_reason else None,
        )

    def _calls(self, delta: GenerationDelta) -> list[ToolCallDelta]:
        calls = delta.tool_calls
        if self._is_single_call:
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
        return ChatChunk(
            id=self._id,
            created=self._created,
            model=self._model,
            choices=choices,
            usage=usage,
            service_tier=self._service_tier,
        )


def _complete_call(call: ToolCallDelta) -> ChatToolCall:
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
