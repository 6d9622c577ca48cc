"""Converts conversations and sampling parameters to vLLM's request fields.

One adapter sends them to a server as JSON, the other passes them to vLLM's request classes.

Source: vllm.entrypoints.openai.{chat_completion,completion}.protocol (0.32.0).
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from domain.conversation import AssistantMessage, Conversation, Message, RefusalPart, TextPart, ToolChoice
from domain.requests import GenerationRequest
from domain.sampling import SamplingParameters

# Same names in the domain and in vLLM, on all endpoints; omitted if the request does not set them.
_OPTIONAL = (
    "temperature", "top_p", "seed", "presence_penalty", "frequency_penalty", "top_k", "min_p",
    "repetition_penalty", "min_tokens", "stop_token_ids", "allowed_token_ids", "bad_words", "ignore_eos",
    "include_stop_str_in_output", "skip_special_tokens", "spaces_between_special_tokens",
)  # fmt: skip


MIN_TOP_P = 1e-9
"""Replaces 0, which OpenAI accepts for greedy choice: vLLM accepts only values above 0."""


def sampling_fields(sampling: SamplingParameters) -> dict[str, Any]:
    """All sampling parameters except log probabilities, whose fields differ by endpoint.

    `structured_outputs` is a dict with the fields of vLLM's `StructuredOutputsParams`.
    """
    fields: dict[str, Any] = {"n": sampling.n, "stop": sampling.stop}
    for name in _OPTIONAL:
        value = getattr(sampling, name)
        if value is not None:
            fields[name] = value
    if sampling.top_p == 0:
        fields["top_p"] = MIN_TOP_P
    if sampling.max_tokens is not None:
        fields["max_tokens"] = sampling.max_tokens
    if sampling.logit_bias:
        fields["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias.items()}
    if sampling.structured_outputs is not None:
        fields["structured_outputs"] = msgspec.to_builtins(sampling.structured_outputs)
    return fields


def stop_sequence(stop_reason: int | str | None, request: GenerationRequest) -> str | None:
    """The stop sequence of the request that ended a choice.

    Args:
        stop_reason: vLLM's reason: a stop sequence, the id of a stop token, or None for anything else.
        request: the request.
    """
    return stop_reason if isinstance(stop_reason, str) and stop_reason in request.sampling.stop else None


def may_be_truncated(request: GenerationRequest, prompt_tokens: int, max_model_len: int | None) -> bool:
    """Whether a prompt may have been truncated; vLLM would echo the whole text nevertheless.

    Args:
        request: the request.
        prompt_tokens: number of prompt tokens that the model saw.
        max_model_len: context length in tokens, if known.
    """
    limit = request.truncate_prompt_tokens
    if limit is None:
        return False
    if limit < 0:
        # vLLM reserves one token for the output.
        limit = (max_model_len or 1) - 1
    return prompt_tokens >= limit


def conversation_fields(conversation: Conversation) -> dict[str, Any]:
    """Messages, tools and other variables of the chat template."""
    fields: dict[str, Any] = {
        "messages": [message_fields(message) for message in conversation.messages],
        "add_generation_prompt": conversation.add_generation_prompt,
        "continue_final_message": conversation.continue_final_message,
    }
    if conversation.tools:
        fields["tools"] = [
            {"type": "function", "function": msgspec.to_builtins(tool)} for tool in conversation.tools
        ]
        fields["tool_choice"] = _tool_choice(conversation)
        fields["parallel_tool_calls"] = conversation.parallel_tool_calls
    if conversation.reasoning_effort is not None:
        fields["reasoning_effort"] = conversation.reasoning_effort
    if not conversation.include_reasoning:
        fields["include_reasoning"] = False
    if conversation.template_arguments:
        fields["chat_template_kwargs"] = conversation.template_arguments
    if conversation.documents is not None:
        fields["documents"] = conversation.documents
    return fields


def message_fields(message: Message) -> dict[str, Any]:
    """A message with the fields that chat templates use; fields for clients only are omitted."""
    if not isinstance(message, AssistantMessage):
        fields: dict[str, Any] = msgspec.to_builtins(message)
        return fields | {"content": _content(message.content)}
    fields = {"role": "assistant", "content": _assistant_content(message)}
    if message.name is not None:
        fields["name"] = message.name
    if message.tool_calls:
        fields["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.function.name, "arguments": call.function.arguments},
            }
            for call in message.tool_calls
        ]
    reasoning = message.reasoning or message.reasoning_content
    if reasoning:
        fields["reasoning"] = reasoning
    return fields


def _assistant_content(message: AssistantMessage) -> Any:
    """Text, text parts, or None; a refusal is passed to the model as text."""
    return message.refusal if message.content is None else _content(message.content)


def _content(content: str | Sequence[TextPart | RefusalPart]) -> Any:
    """Text, or text parts without OpenAI's cache breakpoints."""
    if isinstance(content, str):
        return content
    return [
        {"type": "text", "text": part.refusal if isinstance(part, RefusalPart) else part.text} for part in content
    ]


def _tool_choice(conversation: Conversation) -> Any:
    if conversation.tool_choice is ToolChoice.NAMED:
        return {"type": "function", "function": {"name": conversation.tool_name}}
    return conversation.tool_choice.value
