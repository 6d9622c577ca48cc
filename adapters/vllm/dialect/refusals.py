"""Translates vLLM's error messages about rejected requests into domain errors.

Both adapters receive the same messages: one in exceptions, one in JSON errors. Known kinds get the service's own
message, parameter and code, so that clients see no difference between backends; unknown ones keep vLLM's message.
"""

import re

from domain.conversation import FORCED, Conversation
from domain.errors import (
    BackendFailedError,
    ContextLengthError,
    InferenceError,
    InvalidRequestError,
    WrongEndpointError,
)
from domain.requests import GenerationRequest

_CONTEXT = re.compile(r"maximum context length|maximum model length|max_model_len|longer than the maximum", re.I)
# For a prompt that fills the context and leaves no room for an answer.
_NO_ROOM = re.compile(r"plus the number of requested output tokens|max_tokens must be at least 1", re.I)
_TRUNCATION = re.compile(r"truncate_prompt_tokens.{0,40} greater than", re.I)
_VOCABULARY = re.compile(r"token id -?\d+ is out of vocabulary", re.I)
_LOGIT_BIAS = re.compile(r"logit_bias", re.I)
_DIMENSIONS = re.compile(r"matryoshka|\bdimensions\b", re.I)
_NO_TEMPLATE = re.compile(r"default chat template is no longer allowed", re.I)
_NO_TOOL_PARSER = re.compile(r"requires.* --tool-call-parser", re.I | re.S)
_STOP_TOKENS = re.compile(r"stop_token_ids", re.I)
_ALLOWED_TOKENS = re.compile(r"allowed_token_ids", re.I)
# Matched at the start only: the rest of the message contains the client's text, which may be anything.
_BAD_WORDS = re.compile(r"(too many )?bad[_ ]words|.{0,80}tokens were specified as bad", re.I)
_MIN_TOKENS = re.compile(r"min_tokens must be less than or equal to", re.I)
# Of the tokenizer, for a query that is too long if documents have a limit; servers answer it with status 500.
_NO_DOCUMENT = re.compile(r"truncation error: (sequence to truncate too short|second sequence not provided)", re.I)
_NO_PROMPT = re.compile(r"the \w+ prompt cannot be empty", re.I)
_GRAMMAR = re.compile(r"grammar|schema|regex|structur|choice|json|triggers", re.I)
# vLLM appends details to many messages: " (parameter=prompt, value=…)".
_PARAMETER_NOTE = re.compile(r"\s*\(parameter=.*\)\s*$", re.S)
# xgrammar starts its messages with a source line: "[21:59:14] /project/cpp/regex_converter.cc:83: ".
_SOURCE_LINE = re.compile(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ")


def is_refusal(message: str) -> bool:
    """Whether an error message of a server is about the request, whatever its status."""
    return _NO_DOCUMENT.match(message) is not None


def constrained_param(request: GenerationRequest | None) -> str | None:
    """The request field that constrains the output and that the engine compiles into a grammar, if any."""
    if request is None:
        return None
    if isinstance(request.prompt, Conversation) and _constrains_calls(request.prompt):
        return "tools"
    return request.sampling.structured_outputs_param if request.sampling.structured_outputs is not None else None


def _constrains_calls(conversation: Conversation) -> bool:
    forced = conversation.tool_choice in FORCED
    strict = any(tool.strict for tool in conversation.tools)
    return bool(conversation.tools) and (forced or strict or not conversation.parallel_tool_calls)


def refusal(
    message: str, *, param: str, model: str, max_model_len: int | None, constrained_param: str | None = None
) -> InvalidRequestError:
    """The domain's error for a request that vLLM rejected.

    Args:
        message: vLLM's error message.
        param: the request parameter that carries the prompt or the inputs.
        constrained_param: from `constrained_param`; the field that grammar errors are about, if any.
        model: the model's name, for the message.
        max_model_len: context length in tokens, if known.
    """
    cleaned = _SOURCE_LINE.sub("", _PARAMETER_NOTE.sub("", message)).strip()
    if _NO_TOOL_PARSER.search(message):
        return InvalidRequestError(
            f"Tool calls are not enabled on the server of '{model}'. Start it with --enable-auto-tool-choice and "
            "--tool-call-parser, or leave 'tools' out.",
            param="tools",
            code="unsupported_parameter",
        )
    if _BAD_WORDS.match(message):
        return InvalidRequestError(
            "'bad_words' has too many words for the engine, or a word without tokens in the model's vocabulary. A "
            "word counts twice if it is tokenized differently after a space.",
            param="bad_words",
            code="invalid_value",
        )
    # Checked before parameter names: vLLM quotes the schema, whose properties may have any name.
    if constrained_param is not None and _GRAMMAR.search(message):
        return InvalidRequestError(
            f"Invalid '{constrained_param}': the engine can't compile it into a grammar. Its error: "
            f"{cleaned[:500]}",
            param=constrained_param,
            code="invalid_value",
        )
    if _LOGIT_BIAS.search(message):
        return InvalidRequestError(
            f"'logit_bias' names a token id that is not in the vocabulary of '{model}'.",
            param="logit_bias",
            code="invalid_value",
        )
    if _STOP_TOKENS.search(message):
        return unknown_tokens("stop_token_ids", model)
    if _ALLOWED_TOKENS.search(message):
        return unknown_tokens("allowed_token_ids", model)
    if _DIMENSIONS.search(message):
        return no_such_dimensions(model)
    if _VOCABULARY.search(message):
        return unknown_tokens(param, model)
    if _TRUNCATION.search(message):
        return InvalidRequestError(
            f"'truncate_prompt_tokens' must not exceed the context length of '{model}'"
            + (f", {max_model_len} tokens." if max_model_len else "."),
            param="truncate_prompt_tokens",
            code="invalid_value",
        )
    if _MIN_TOKENS.match(message):
        return InvalidRequestError(
            "'min_tokens' must not exceed the tokens that the context has left for the answer"
            + (f": the context length of '{model}' is {max_model_len} tokens." if max_model_len else "."),
            param="min_tokens",
            code="invalid_value",
        )
    if _NO_DOCUMENT.match(message):
        return InvalidRequestError(
            "The query leaves no room for a document of 'max_tokens_per_doc' tokens. Shorten the query, or set "
            "'max_tokens_per_query'.",
            param="max_tokens_per_doc",
            code="invalid_value",
        )
    if _NO_PROMPT.match(message):
        return InvalidRequestError(f"'{param}' contains no tokens.", param=param, code="empty_input")
    if _NO_ROOM.search(message):
        return ContextLengthError(max_model_len, param=param, prompt_tokens=max_model_len)
    if _CONTEXT.search(message):
        return ContextLengthError(max_model_len, param=param)
    if _NO_TEMPLATE.search(message):
        return not_a_chat_model(model)
    return InvalidRequestError(cleaned)


_UNSUPPORTED_FORM = "The engine can't satisfy '"


def is_form_error(error: InvalidRequestError) -> bool:
    """Whether an error says that a generation was aborted because of its output constraint."""
    return error.message.startswith(_UNSUPPORTED_FORM)


def generation_aborted(request: GenerationRequest, *, has_reasoned: bool = False) -> InferenceError:
    """The error for a generation that the engine aborted.

    If the request constrains the output, the constraint is the cause: some schemas and expressions pass all
    checks, but the engine can't compile them into a grammar or finds no token that matches. If the model has
    reasoned, however, the grammar was compiled, and the model ended its reasoning with a token that the grammar
    can't start with; a retry may succeed.

    Args:
        request: the request.
        has_reasoned: whether the engine has output tokens that no grammar constrains.
    """
    param = constrained_param(request)
    if param is not None and not has_reasoned:
        return InvalidRequestError(
            f"{_UNSUPPORTED_FORM}{param}': it is too large, refers to itself endlessly, or uses a feature that "
            "the engine does not support. Please simplify it.",
            param=param,
            code="invalid_value",
        )
    if param is not None:
        return BackendFailedError(
            f"The model ended its reasoning with a token that '{param}' does not allow. Please try again."
        )
    return BackendFailedError("The engine ended the generation before it was complete. Please try again.")


def no_such_dimensions(model: str) -> InvalidRequestError:
    """The error for dimensions that a model does not support."""
    return InvalidRequestError(
        f"The model '{model}' does not support vectors of that length. Leave 'dimensions' out, or see the "
        "model's card for the lengths that it supports.",
        param="dimensions",
        code="unsupported_value",
    )


def unknown_tokens(param: str, model: str) -> InvalidRequestError:
    """The error for token ids that are not in a model's vocabulary."""
    return InvalidRequestError(
        f"'{param}' contains a token id that is not in the vocabulary of '{model}'. Token ids must come from "
        "this model's own tokenizer.",
        param=param,
        code="invalid_value",
    )


def not_a_chat_model(model: str) -> WrongEndpointError:
    """The error for a conversation if the model has no chat template."""
    return WrongEndpointError(
        f"The model '{model}' has no chat template, so it is not supported in the v1/chat/completions endpoint. "
        "Did you mean to use v1/completions?",
        param="model",
    )
