"""What vLLM says of a request that it refuses, in the domain's errors.

Both adapters hear the same sentences: one as the text of an exception, one inside a JSON error. Known
kinds get the service's own words, parameter and code, so that clients see no difference between backends;
unknown ones keep vLLM's sentence.
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

# The last of these is what vLLM makes of a prompt that fills the context and leaves no room for an answer.
_CONTEXT = re.compile(
    r"maximum context length|maximum model length|max_model_len|longer than the maximum"
    r"|max_tokens must be at least 1",
    re.I,
)
_TRUNCATION = re.compile(r"truncate_prompt_tokens.{0,40} greater than", re.I)
_VOCABULARY = re.compile(r"token id -?\d+ is out of vocabulary", re.I)
_LOGIT_BIAS = re.compile(r"logit_bias", re.I)
_DIMENSIONS = re.compile(r"matryoshka|\bdimensions\b", re.I)
_NO_TEMPLATE = re.compile(r"default chat template is no longer allowed", re.I)
_NO_TOOL_PARSER = re.compile(r"requires.* --tool-call-parser", re.I | re.S)
_STOP_TOKENS = re.compile(r"stop_token_ids", re.I)
_ALLOWED_TOKENS = re.compile(r"allowed_token_ids", re.I)
# These begin the sentence: it goes on with the client's own words, which may be anything.
_BAD_WORDS = re.compile(r"(too many )?bad[_ ]words|.{0,80}tokens were specified as bad", re.I)
_MIN_TOKENS = re.compile(r"min_tokens must be less than or equal to", re.I)
_NO_PROMPT = re.compile(r"the \w+ prompt cannot be empty", re.I)
_GRAMMAR = re.compile(r"grammar|schema|regex|structur|choice|json|triggers", re.I)
# vLLM appends its own bookkeeping to many sentences: " (parameter=prompt, value=…)".
_BOOKKEEPING = re.compile(r"\s*\(parameter=.*\)\s*$", re.S)
# And xgrammar begins with its own: "[21:59:14] /project/cpp/regex_converter.cc:83: ".
_SOURCE_LINE = re.compile(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ")


def form_param(request: GenerationRequest | None) -> str | None:
    """The request field that asks for a form of the text, if there is one: what a grammar is made of."""
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
    message: str, *, param: str, model: str, max_model_len: int | None, form_param: str | None = None
) -> InvalidRequestError:
    """The domain's error for a refusal by vLLM.

    Args:
        message: vLLM's sentence.
        param: the request parameter that carries the prompt or the inputs.
        form_param: from `form_param`; what a sentence of no known kind is about, if there is one.
        model: the model's name, for the sentence.
        max_model_len: context length in tokens, if known.
    """
    said = _SOURCE_LINE.sub("", _BOOKKEEPING.sub("", message)).strip()
    if _NO_TOOL_PARSER.search(message):
        return InvalidRequestError(
            f"The server of '{model}' was not told how the model writes tool calls. Start it with "
            "--enable-auto-tool-choice and --tool-call-parser, or leave 'tools' out.",
            param="tools",
            code="unsupported_parameter",
        )
    if _BAD_WORDS.match(message):
        return InvalidRequestError(
            "'bad_words' are too many for the engine, or no tokens of the model's: a word counts twice if it is "
            "written differently behind a space.",
            param="bad_words",
            code="invalid_value",
        )
    # Before all else: a schema may have properties of any name, and vLLM repeats them.
    if form_param is not None and _GRAMMAR.search(message):
        return InvalidRequestError(
            f"Invalid '{form_param}': the engine can't make a grammar of it. It says: {said[:500]}",
            param=form_param,
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
            f"'truncate_prompt_tokens' must not be above the context length of '{model}'"
            + (f", {max_model_len} tokens." if max_model_len else "."),
            param="truncate_prompt_tokens",
            code="invalid_value",
        )
    if _MIN_TOKENS.match(message):
        return InvalidRequestError(
            "'min_tokens' must not be above the tokens that the context has left for the answer"
            + (f": the context of '{model}' is {max_model_len} tokens long." if max_model_len else "."),
            param="min_tokens",
            code="invalid_value",
        )
    if _NO_PROMPT.match(message):
        return InvalidRequestError(f"'{param}' comes to no tokens at all.", param=param, code="empty_input")
    if _CONTEXT.search(message):
        return ContextLengthError(max_model_len, param=param)
    if _NO_TEMPLATE.search(message):
        return not_a_chat_model(model)
    return InvalidRequestError(said)


_NOT_FOLLOWED = "The engine can't follow '"


def is_form_error(error: InvalidRequestError) -> bool:
    """Whether an error says that a generation was given up for its form."""
    return error.message.startswith(_NOT_FOLLOWED)


def generation_aborted(request: GenerationRequest, *, has_reasoned: bool = False) -> InferenceError:
    """The error for a generation that the engine gave up.

    Where the client asked for a form of the text, that is the cause: some schemas and expressions pass all
    checks, and then the engine can't make a grammar of them, or finds no token that would follow it. A model that
    has thought, though, had a grammar to follow, and left its thinking with a token that the grammar does not
    begin with; another time it won't.

    Args:
        request: what was asked for.
        has_reasoned: whether tokens came that no grammar constrained.
    """
    param = form_param(request)
    if param is not None and not has_reasoned:
        return InvalidRequestError(
            f"{_NOT_FOLLOWED}{param}': it is too large, refers to itself without end, or uses something "
            "that the engine does not know. Please simplify it.",
            param=param,
            code="invalid_value",
        )
    if param is not None:
        return BackendFailedError(
            f"The model ended its thinking in a way from which it can't go on to '{param}'. Please try again."
        )
    return BackendFailedError("The engine ended the generation before it was complete. Please try again.")


def no_such_dimensions(model: str) -> InvalidRequestError:
    """The refusal of a length that a model's vectors can't have."""
    return InvalidRequestError(
        f"The model '{model}' was not trained for vectors of that length. Leave 'dimensions' out, or see the "
        "model's card for the lengths that it knows.",
        param="dimensions",
        code="unsupported_value",
    )


def unknown_tokens(param: str, model: str) -> InvalidRequestError:
    """The refusal of token ids that a model does not have."""
    return InvalidRequestError(
        f"'{param}' holds a token id that is not in the vocabulary of '{model}'. Token ids must come from "
        "this model's own tokenizer.",
        param=param,
        code="invalid_value",
    )


def not_a_chat_model(model: str) -> WrongEndpointError:
    """The refusal of a conversation by a model without a chat template."""
    return WrongEndpointError(
        f"The model '{model}' has no chat template, so it is not supported in the v1/chat/completions endpoint. "
        "Did you mean to use v1/completions?",
        param="model",
    )
