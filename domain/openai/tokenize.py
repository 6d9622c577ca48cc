"""`POST /tokenize` and `POST /detokenize`, as vLLM has them.

Source: vllm.entrypoints.serve.tokenize.protocol (0.32.0).
"""

from typing import Annotated, Any

import msgspec

from domain.conversation import Conversation, Message
from domain.errors import InvalidRequestError
from domain.openai.chat import ChatBody, Tool
from domain.openai.common import TokenId
from domain.openai.field import about
from domain.requests import TokenizeRequest
from domain.results import Tokenization


class TokenizeBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A text, or a conversation, to turn into tokens: exactly one of `prompt` and `messages`."""

    model: Annotated[str | None, about("Name or alias of either model; left out, the generation model.")] = None
    prompt: Annotated[str | None, about("A text.")] = None
    messages: Annotated[
        Annotated[list[Message], msgspec.Meta(min_length=1)] | None,
        about("A conversation, for the generation model's chat template."),
    ] = None
    add_special_tokens: Annotated[
        bool | None, about("Whether the tokenizer adds its own; default: to a text yes, to a conversation no.")
    ] = None
    return_token_strs: Annotated[bool | None, about("Tell the tokens as the vocabulary writes them, too.")] = None
    add_generation_prompt: Annotated[bool | None, about("As in chat completions.")] = None
    continue_final_message: Annotated[bool | None, about("As in chat completions.")] = None
    chat_template_kwargs: Annotated[dict[str, Any] | None, about("As in chat completions.")] = None
    tools: Annotated[list[Tool] | None, about("As in chat completions.")] = None

    def to_request(self) -> TokenizeRequest:
        """The domain's request.

        Raises:
            InvalidRequestError: neither or both of `prompt` and `messages`.
        """
        if self.prompt is not None and self.messages is None:
            prompt: str | Conversation = self.prompt
        elif self.messages is not None and self.prompt is None:
            prompt = self._conversation(self.messages)
        else:
            raise InvalidRequestError(
                "Exactly one of 'prompt' and 'messages' is needed.",
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


def tokenize_response(found: Tokenization, max_model_len: int | None) -> TokenizeResponse:
    """The answer for a tokenization."""
    return TokenizeResponse(
        count=len(found.token_ids),
        max_model_len=max_model_len,
        tokens=found.token_ids,
        token_strs=found.strings,
    )


class DetokenizeBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tokens to turn into text."""

    model: Annotated[str | None, about("Name or alias of either model; left out, the generation model.")] = None
    tokens: Annotated[list[TokenId], about("Token ids of the model's own vocabulary.")]


class DetokenizeResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The text of tokens."""

    prompt: str
