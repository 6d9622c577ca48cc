"""Renders fill-in-the-middle prompts for requests with a `suffix`.

Models that were trained for it have three special tokens that separate prefix, suffix and middle. The vocabulary
shows which ones; their order is the same for all these families.

Source: the models' own tokenizers (Qwen2.5-Coder, StarCoder and SmolLM, CodeGemma, DeepSeek-Coder, Granite).
"""

from typing import NamedTuple

from domain.errors import InvalidRequestError


class Markers(NamedTuple):
    """The special tokens of one family of models."""

    prefix: str
    suffix: str
    middle: str

    def render(self, prompt: str, suffix: str) -> str:
        """The prompt for the text between prefix and suffix."""
        return f"{self.prefix}{prompt}{self.suffix}{suffix}{self.middle}"


KNOWN = (
    Markers("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    Markers("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    Markers("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    Markers("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
)


def not_supported(model: str) -> InvalidRequestError:
    """The error for a model without such tokens."""
    return InvalidRequestError(
        f"The model '{model}' was not trained to fill in the middle. Leave 'suffix' out.",
        param="suffix",
        code="unsupported_parameter",
    )
