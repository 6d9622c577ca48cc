"""What vLLM says of a request that it refuses, in the domain's errors.

Both adapters hear the same sentences: one as the text of an exception, one inside a JSON error. Known
kinds get the service's own words, parameter and code, so that clients see no difference between backends;
unknown ones keep vLLM's sentence.
"""

import re

from domain.errors import ContextLengthError, InvalidRequestError

# The last of these is what vLLM makes of a prompt that fills the context and leaves no room for an answer.
_CONTEXT = re.compile(
    r"maximum context length|maximum model length|max_model_len|longer than the maximum"
    r"|max_tokens must be at least 1",
    re.I,
)
_VOCABULARY = re.compile(r"token id -?\d+ is out of vocabulary", re.I)
_LOGIT_BIAS = re.compile(r"logit_bias", re.I)
_DIMENSIONS = re.compile(r"matryoshka|\bdimensions\b", re.I)
# vLLM appends its own bookkeeping to many sentences: " (parameter=prompt, value=…)".
_BOOKKEEPING = re.compile(r"\s*\(parameter=.*\)\s*$", re.S)


def refusal(message: str, *, param: str, model: str, max_model_len: int | None) -> InvalidRequestError:
    """The domain's error for a refusal by vLLM.

    Args:
        message: vLLM's sentence.
        param: the request parameter that carries the prompt or the inputs.
        model: the model's name, for the sentence.
        max_model_len: context length in tokens, if known.
    """
    if _LOGIT_BIAS.search(message):
        return InvalidRequestError(
            f"'logit_bias' names a token id that is not in the vocabulary of '{model}'.",
            param="logit_bias",
            code="invalid_value",
        )
    if _DIMENSIONS.search(message):
        return InvalidRequestError(
            f"The model '{model}' was not trained for other 'dimensions' than its own. Leave the parameter out.",
            param="dimensions",
            code="unsupported_value",
        )
    if _VOCABULARY.search(message):
        return InvalidRequestError(
            f"'{param}' holds a token id that is not in the vocabulary of '{model}'. Token ids must come from "
            "this model's own tokenizer.",
            param=param,
            code="invalid_value",
        )
    if _CONTEXT.search(message):
        return ContextLengthError(max_model_len, param=param)
    return InvalidRequestError(_BOOKKEEPING.sub("", message))
