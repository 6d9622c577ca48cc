"""Converts results and events of any engine to a response and to the events of its stream."""

from collections.abc import Sequence

import msgspec

from domain.errors import InferenceError
from domain.openai.common import UsageCounter
from domain.openai.responses.body import ResponseBody
from domain.openai.responses.events import ErrorEvent, Event, ResponseEvent
from domain.openai.responses.items import ResponseItem, Status
from domain.openai.responses.output import (
    Numbering,
    OpenCompaction,
    OpenCustomCall,
    OpenFunctionCall,
    OpenMessage,
    OpenReasoning,
)
from domain.openai.responses.response import (
    IncompleteDetails,
    Response,
    response_error,
    response_usage,
)
from domain.openai.responses.tools import CallableTools
from domain.random_id import random_hex
from domain.results import (
    FinishReason,
    GenerationDelta,
    GenerationEvent,
    GenerationResult,
    GenerationUsage,
    ToolCallDelta,
)
from domain.state import UNFINISHED, Item, ResponseStatus

Open = OpenMessage | OpenCompaction | OpenReasoning | OpenFunctionCall | OpenCustomCall
NO_USAGE = GenerationUsage(prompt_tokens=0, completion_tokens=0)
_encode = msgspec.json.Encoder().encode


class ResponsePresenter:
    """Builds one response from the events of its generation.

    The same code builds complete and streamed responses: a complete result is one large delta, whose events are
    not sent.
    """

    def __init__(
        self, response: Response, body: ResponseBody, tools: CallableTools, *, is_compaction: bool = False
    ) -> None:
        """Create it.

        Args:
            response: the response without output.
            body: the request.
            tools: the tools that the model may call.
            is_compaction: whether the generated text is a summary, which becomes a compaction item.
        """
        self.response = response
        self.items: list[Item] = []
        """The output so far, as it is stored."""
        self.usage = UsageCounter()
        self.has_begun = False
        """Whether its first events have been made."""
        self._numbers = Numbering()
        self._tools = tools
        self._is_compaction = is_compaction
        self._top_logprobs = body.top_logprobs or 0
        reasoning = body.reasoning
        self._has_summary = reasoning is not None and reasoning.has_summary
        self._is_sealed = body.has_encrypted_reasoning
        self._is_single_call = body.parallel_tool_calls is False
        self._open: Open | None = None
        self._held: list[GenerationDelta] = []
        """White space, and tokens without text, that belong to a message only if its text goes on."""
        self._has_answer = False
        """Whether there is an item besides reasoning."""
        self._summary_reasoning: list[str] = []
        """Reasoning about a summary, which is its text if no other comes."""
        self._last_events: list[Event] | None = None
        """The events of the last item, once the response has failed or was cancelled."""
        self._call_index = -1
        self._output: list[msgspec.Raw] = []
        self._finish_reason: FinishReason | None = None
        self._generation_usage: GenerationUsage | None = None

    def first_chunks(self) -> list[Event]:
        """The events before any output."""
        self.has_begun = True
        if self.response.status is ResponseStatus.QUEUED:
            events = [self._response_event("created"), self._response_event("queued")]
            self.response = msgspec.structs.replace(self.response, status=ResponseStatus.IN_PROGRESS)
            return [*events, self._response_event("in_progress")]
        return [self._response_event("created"), self._response_event("in_progress")]

    def chunks(self, event: GenerationEvent, _prompt_index: int = 0) -> list[Event]:
        """The events of one event of the generation."""
        if isinstance(event, GenerationUsage):
            self.usage.add(event)
            self._generation_usage = event
            return []
        events: list[Event] = []
        if event.reasoning and self._is_compaction:
            self._summary_reasoning.append(event.reasoning)
        elif event.reasoning:
            events += self._reasoning(event)
        if event.text or event.logprobs:
            events += self._text(event)
        for call in event.tool_calls:
            if not self._is_single_call or call.index == 0:
                events += self._call(call)
        self._finish_reason = event.finish_reason or self._finish_reason
        return events

    def end_output(self) -> list[Event]:
        """End the output: the events of its last item, without the one that ends the response."""
        status: Status = "incomplete" if self._finish_reason is FinishReason.LENGTH else "completed"
        events: list[Event] = []
        if not self._has_answer:
            events += self._blank_answer()
        events += self._end_open(status)
        changes: dict[str, object] = {
            "output": self._output,
            "usage": response_usage(self._generation_usage) if self._generation_usage is not None else None,
        }
        if status == "incomplete":
            changes["incomplete_details"] = IncompleteDetails(reason="max_output_tokens")
        self.response = self.response.ended(ResponseStatus(status), **changes)
        return events

    def end_without_output(self) -> None:
        """End a response that was only to be prepared."""
        self.response = self.response.ended(ResponseStatus.COMPLETED, usage=response_usage(NO_USAGE))

    def fail(self, error: InferenceError) -> list[Event]:
        """End the response as failed; the output that it has so far stays.

        Returns:
            The events of its last item, to be sent before those that end the stream. They have the next sequence
            numbers, so a second call returns the same ones.
        """
        return self._break_off(ResponseStatus.FAILED, error=response_error(error))

    def cancel(self) -> list[Event]:
        """End the response as cancelled, unless it has ended. See `fail` for what it returns."""
        if self.response.status not in UNFINISHED:
            return self._last_events or []
        return self._break_off(ResponseStatus.CANCELLED)

    def _break_off(self, status: ResponseStatus, **changes: object) -> list[Event]:
        if self._last_events is None:
            self._last_events = [*self._end_open("incomplete")]
            self.response = self.response.ended(status, output=self._output, **changes)
        return self._last_events

    def last_chunks(self) -> list[Event]:
        """The event that ends the response: `completed`, `incomplete`, `failed` or `cancelled`."""
        return [self._response_event(self.response.status)]

    def error_chunk(self, error: InferenceError) -> ErrorEvent:
        """The event that a failed stream ends with."""
        return ErrorEvent(
            type="error",
            sequence_number=self._numbers.take(),
            code=error.code,
            message=error.message,
            param=error.param,
        )

    def whole(self, result: GenerationResult) -> Response:
        """The response for a complete result."""
        for choice in result.choices:
            self.chunks(choice)
        self.chunks(result.usage)
        self.end_output()
        return self.response

    def _reasoning(self, delta: GenerationDelta) -> list[Event]:
        if isinstance(self._open, OpenReasoning):
            return self._open.add(delta.reasoning)
        item = OpenReasoning(
            self._numbers, self._next_index(), is_summary=self._has_summary, is_sealed=self._is_sealed
        )
        return [*self._replace(item), *item.add(delta.reasoning)]

    def _text(self, delta: GenerationDelta) -> list[Event]:
        if self._tools.grammar is not None:
            return self._grammar_input(delta.text) if delta.text else []
        if isinstance(self._open, OpenMessage | OpenCompaction):
            return self._open.add(delta.text, delta.logprobs)
        self._held.append(delta)
        if not delta.text or delta.text.isspace():
            # Models separate reasoning and calls by line breaks, which are no messages.
            return []
        return self._begin_message(self._take_held())

    def _take_held(self) -> GenerationDelta:
        text = "".join(delta.text for delta in self._held)
        logprobs = [token for delta in self._held for token in delta.logprobs or ()]
        self._held = []
        return GenerationDelta(index=0, text=text, logprobs=logprobs)

    def _begin_message(self, delta: GenerationDelta) -> list[Event]:
        item = self._new_message()
        events = self._replace(item)
        if delta.text or delta.logprobs:
            events += item.add(delta.text, delta.logprobs)
        return events

    def _blank_answer(self) -> list[Event]:
        """The message of an answer without text other than white space, and without calls."""
        held = self._take_held()
        if self._summary_reasoning:
            held = GenerationDelta(index=0, text="".join(self._summary_reasoning))
        # A client expects a message, even an empty one, unless there is reasoning.
        return self._begin_message(held) if held.text or self._open is None else []

    def _grammar_input(self, text: str) -> list[Event]:
        """The whole answer is the input of the one custom tool."""
        if isinstance(self._open, OpenCustomCall):
            return self._open.add(text)
        item = OpenCustomCall(
            self._numbers,
            self._next_index(),
            call_id=f"call_{random_hex()}",
            name=self._tools.name or "",
            is_raw=True,
        )
        return [*self._replace(item), *item.add(text)]

    def _call(self, call: ToolCallDelta) -> list[Event]:
        if call.index == self._call_index and isinstance(self._open, OpenFunctionCall | OpenCustomCall):
            return self._open.add(call.arguments)
        name, call_id = call.name or "", call.id or f"call_{random_hex()}"
        kind = OpenCustomCall if name in self._tools.custom else OpenFunctionCall
        item = kind(self._numbers, self._next_index(), call_id=call_id, name=name)
        self._call_index = call.index
        self._held = []
        return [*self._replace(item), *item.add(call.arguments)]

    def _new_message(self) -> OpenMessage | OpenCompaction:
        if self._is_compaction:
            return OpenCompaction(self._numbers, self._next_index())
        return OpenMessage(self._numbers, self._next_index(), top_logprobs=self._top_logprobs)

    def _next_index(self) -> int:
        return len(self._output) + (self._open is not None)

    def _replace(self, item: Open) -> list[Event]:
        return [*self._end_open("completed"), *self._begin(item)]

    def _begin(self, item: Open) -> Sequence[Event]:
        self._open = item
        self._has_answer = self._has_answer or not isinstance(item, OpenReasoning)
        return item.start()

    def _end_open(self, status: Status) -> Sequence[Event]:
        if self._open is None:
            return ()
        item, events = self._open.end(status)
        self._open = None
        self._store(item)
        return events

    def _store(self, item: ResponseItem) -> None:
        data = _encode(item)
        self._output.append(msgspec.Raw(data))
        self.items.append(Item(str(item.id), data))

    def _response_event(self, what: str) -> ResponseEvent:
        return ResponseEvent(type=f"response.{what}", sequence_number=self._numbers.take(), response=self.response)
