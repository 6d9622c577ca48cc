"""The domain's conversations and sampling parameters under vLLM's own names.

Both adapters need them: one sends them to a server as JSON, one hands them to vLLM's request classes.

Source: vllm.entrypoints.openai.{chat_completion,completion}.protocol (0.32.0).
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from domain.conversation import AssistantMessage, Conversation, Message, RefusalPart, TextPart, ToolChoice
from domain.requests import GenerationRequest
from domain.sampling import SamplingParameters

# The same under both names, on all endpoints, and left out where the request leaves them open.
_OPTIONAL = (
    "temperature", "top_p", "seed", "presence_penalty", "frequency_penalty", "top_k", "min_p",
    "repetition_penalty", "min_tokens", "stop_token_ids", "allowed_token_ids", "bad_words", "ignore_eos",
    "include_stop_str_in_output", "skip_special_tokens", "spaces_between_special_tokens",
)  # fmt: skip


SMALLEST_TOP_P = 1e-9
"""Stands for OpenAI's 0, the likeliest token alone: vLLM accepts only values above 0."""


def sampling_fields(sampling: SamplingParameters) -> dict[str, Any]:
    """Everything of the sampling but its log probabilities, which each endpoint asks for in its own way.

    `structured_outputs` is a dict of vLLM's `StructuredOutputsParams`.
    """
    fields: dict[str, Any] = {"n": sampling.n, "stop": sampling.stop}
    for name in _OPTIONAL:
        value = getattr(sampling, name)
        if value is not None:
            fields[name] = value
    if sampling.top_p == 0:
        fields["top_p"] = SMALLEST_TOP_P
    if sampling.max_tokens is not None:
        fields["max_tokens"] = sampling.max_tokens
    if sampling.logit_bias:
        fields["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias.items()}
    if sampling.structured_outputs is not None:
        fields["structured_outputs"] = msgspec.to_builtins(sampling.structured_outputs)
    return fields


def is_cut(request: GenerationRequest, prompt_tokens: int, max_model_len: int | None) -> bool:
    """Whether a prompt of so many tokens may be what is left of a longer one, which vLLM echoes all the same.

    Args:
        request: the request.
        prompt_tokens: tokens of the prompt that the model saw.
        max_model_len: context length in tokens, if known.
    """
    most = request.truncate_prompt_tokens
    if most is None:
        return False
    if most < 0:
        # A generator keeps a token's room for its answer.
        most = (max_model_len or 1) - 1
    return prompt_tokens >= most


def conversation_fields(conversation: Conversation) -> dict[str, Any]:
    """Messages, tools and what else goes into the chat template."""
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
    """One message as templates know it: what an answer carries for clients alone is left out."""
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
    """Text, text parts, or None; a refusal is what the model said, so it is text to the model."""
    return message.refusal if message.content is None else _content(message.content)


def _content(content: str | Sequence[TextPart | RefusalPart]) -> Any:
    """Text, or text parts without what is meant for OpenAI's cache."""
    if isinstance(content, str):
        return content
    return [
        {"type": "text", "text": part.refusal if isinstance(part, RefusalPart) else part.text} for part in content
    ]


def _tool_choice(conversation: Conversation) -> Any:
    if conversation.tool_choice is ToolChoice.NAMED:
        return {"type": "function", "function": {"name": conversation.tool_name}}
    return conversation.tool_choice.value
