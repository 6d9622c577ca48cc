"""Span attributes of engine requests and answers; content is included only if it is captured.

Source: OpenTelemetry's GenAI conventions (`conventions.VERSION`), docs/gen-ai/gen-ai-spans.md; messages have the
schema of docs/gen-ai/gen-ai-input-messages.json and gen-ai-output-messages.json.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from app.telemetry import conventions as names
from domain.choices import join_deltas
from domain.conversation import Conversation
from domain.requests import EmbeddingRequest, GenerationRequest, ScoreRequest
from domain.results import GenerationDelta


def embedding_attributes(request: EmbeddingRequest) -> dict[str, object]:
    """Attributes of an embedding request, without its inputs, for which the conventions have no attribute."""
    attributes: dict[str, object] = {names.INPUT_COUNT: len(request.inputs)}
    if request.dimensions is not None:
        attributes[names.GEN_AI_EMBEDDINGS_DIMENSION_COUNT] = request.dimensions
    return attributes


def score_attributes(request: ScoreRequest) -> dict[str, object]:
    """Attributes of a request for scores, without its texts."""
    return {names.INPUT_COUNT: len(request.documents)}


def generation_attributes(request: GenerationRequest, *, is_stream: bool, content: bool) -> dict[str, object]:
    """Attributes of a generation request.

    Args:
        request: the request.
        is_stream: whether the answer is streamed.
        content: whether to include the prompt or conversation.
    """
    sampling = request.sampling
    values = {
        names.GEN_AI_REQUEST_MAX_TOKENS: sampling.max_tokens,
        names.GEN_AI_REQUEST_TEMPERATURE: sampling.temperature,
        names.GEN_AI_REQUEST_TOP_P: sampling.top_p,
        names.GEN_AI_REQUEST_TOP_K: sampling.top_k,
        names.GEN_AI_REQUEST_FREQUENCY_PENALTY: sampling.frequency_penalty,
        names.GEN_AI_REQUEST_PRESENCE_PENALTY: sampling.presence_penalty,
        names.GEN_AI_REQUEST_SEED: sampling.seed,
        names.GEN_AI_REQUEST_STOP_SEQUENCES: sampling.stop or None,
        # Required only if they differ from the default.
        names.GEN_AI_REQUEST_CHOICE_COUNT: sampling.n if sampling.n != 1 else None,
        names.GEN_AI_REQUEST_STREAM: is_stream or None,
        names.GEN_AI_OUTPUT_TYPE: "json" if _is_json(request) else "text",
    }
    attributes: dict[str, object] = {name: value for name, value in values.items() if value is not None}
    return attributes | _prompt_attributes(request) if content else attributes


def answer_attributes(deltas: Iterable[GenerationDelta]) -> dict[str, object]:
    """The content of an answer: text, reasoning and tool calls of each choice.

    Args:
        deltas: of all choices, in order of arrival, or complete choices.
    """
    return {names.GEN_AI_OUTPUT_MESSAGES: _json([_output_message(choice) for choice in join_deltas(deltas)])}


def _output_message(choice: GenerationDelta) -> dict[str, Any]:
    parts: list[dict[str, Any]] = []
    if choice.reasoning:
        parts.append({"type": "reasoning", "content": choice.reasoning})
    if choice.text:
        parts.append(_text(choice.text))
    parts += [
        {"type": "tool_call", "id": call.id, "name": call.name, "arguments": call.arguments}
        for call in choice.tool_calls
    ]
    return {"role": "assistant", "parts": parts, "finish_reason": choice.finish_reason or "error"}


def _prompt_attributes(request: GenerationRequest) -> dict[str, object]:
    if isinstance(request.prompt, Conversation):
        conversation = msgspec.to_builtins(request.prompt)
        messages = [_input_message(message) for message in conversation["messages"]]
        attributes: dict[str, object] = {names.GEN_AI_INPUT_MESSAGES: _json(messages)}
        if conversation.get("tools"):
            tools = [{"type": "function", **tool} for tool in conversation["tools"]]
            attributes[names.GEN_AI_TOOL_DEFINITIONS] = _json(tools)
        return attributes
    text = request.prompt if isinstance(request.prompt, str) else f"[{len(request.prompt)} token ids]"
    return {names.GEN_AI_INPUT_MESSAGES: _json([{"role": "user", "parts": [_text(text)]}])}


def _input_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a message from OpenAI's schema to the conventions'."""
    content = message.get("content")
    texts = [content] if isinstance(content, str) else [_part_text(part) for part in content or []]
    if message["role"] == "tool":
        answer = {"type": "tool_call_response", "id": message.get("tool_call_id"), "response": "".join(texts)}
        return {"role": "tool", "parts": [answer]}
    calls = [
        {"type": "tool_call", "id": call.get("id"), **call.get("function", {})}
        for call in message.get("tool_calls") or []
    ]
    return {"role": message["role"], "parts": [_text(text) for text in texts] + calls}


def _part_text(part: Mapping[str, str]) -> str:
    return part["refusal"] if part["type"] == "refusal" else part["text"]


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "content": text}


def _is_json(request: GenerationRequest) -> bool:
    form = request.sampling.structured_outputs
    return form is not None and (form.json is not None or bool(form.json_object))


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
