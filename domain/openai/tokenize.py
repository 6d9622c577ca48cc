"""Request and response schemas of `POST /tokenize` and `POST /detokenize`, as in vLLM.

Source: vllm.entrypoints.serve.tokenize.protocol (0.32.0).
"""

from typing import Annotated, Any

import msgspec

from domain.conversation import Conversation, Message
from domain.errors import InvalidRequestError
from domain.openai.chat import ChatBody, Tool
from domain.openai.common import TokenId
from domain.openai.field import describe
from domain.requests import TokenizeRequest
from domain.results import Tokenization


class TokenizeBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of a tokenize request: exactly one of `prompt` and `messages`."""

    model: Annotated[str | None, describe("Name or alias of a model; default: the generation model.")] = None
    prompt: Annotated[str | None, describe("A text.")] = None
    messages: Annotated[
        Annotated[list[Message], msgspec.Meta(min_length=1)] | None,
        describe("A conversation, for the generation model's chat template."),
    ] = None
    add_special_tokens: Annotated[
        bool | None,
        describe("Whether the tokenizer adds special tokens; default: yes for a text, no for a conversation."),
    ] = None
    return_token_strs: Annotated[bool | None, describe("Also return the tokens as strings of the vocabulary.")] = (
        None
    )
    add_generation_prompt: Annotated[bool | None, describe("As in chat completions.")] = None
    continue_final_message: Annotated[bool | None, describe("As in chat completions.")] = None
    chat_template_kwargs: Annotated[dict[str, Any] | None, describe("As in chat completions.")] = None
    tools: Annotated[list[Tool] | None, describe("As in chat completions.")] = None

    def to_request(self) -> TokenizeRequest:
        """Convert to the domain's request.

        Raises:
            InvalidRequestError: neither or both of `prompt` and `messages`.
        """
        if self.prompt is not None and self.messages is None:
            prompt: str | Conversation = self.prompt
        elif self.messages is not None and self.prompt is None:
            prompt = self._conversation(self.messages)
        else:
            raise InvalidRequestError(
                "Exactly one of 'prompt' and 'messages' is required.",
                param="prompt",
                code="missing_required_parameter" if self.prompt is None else "invalid_value",
            )
        return TokenizeRequest(
            prompt=prompt,
            add_special_tokens=self.add_special_tokens,
            with_strings=bool(self.return_token_strs),
        )

    def _conversation(self, messages: list[Message]) -> Conversation:
        return ChatBody(
            model="",
            messages=messages,
            tools=self.tools,
            add_generation_prompt=self.add_generation_prompt,
            continue_final_message=self.continue_final_message,
            chat_template_kwargs=self.chat_template_kwargs,
        ).to_conversation()


class TokenizeResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The tokens of a prompt."""

    count: int
    max_model_len: int | None
    tokens: list[int]
    token_strs: list[str] | None


def tokenize_response(tokenization: Tokenization, max_model_len: int | None) -> TokenizeResponse:
    """The response for a tokenization."""
    return TokenizeResponse(
        count=len(tokenization.token_ids),
        max_model_len=max_model_len,
        tokens=tokenization.token_ids,
        token_strs=tokenization.strings,
    )


class DetokenizeBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of a detokenize request."""

    model: Annotated[str | None, describe("Name or alias of a model; default: the generation model.")] = None
    tokens: Annotated[list[TokenId], describe("Token ids of the model's vocabulary.")]


class DetokenizeResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The text of tokens."""

    prompt: str
