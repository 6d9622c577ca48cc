"""`suffix`: prompts for models that were trained to fill in the middle.

Such a model has three special tokens in its vocabulary, and was trained on prefix and suffix set apart by them.
Which ones they are can be seen from the vocabulary; their order is the same for all of these families.

Source: the models' own tokenizers (Qwen2.5-Coder, StarCoder and SmolLM, CodeGemma, DeepSeek-Coder, Granite).
"""

from typing import NamedTuple

from domain.errors import InvalidRequestError


class Markers(NamedTuple):
    """Special tokens of one family."""

    prefix: str
    suffix: str
    middle: str

    def render(self, prompt: str, suffix: str) -> str:
        """The prompt that asks for what stands between."""
        return f"{self.prefix}{prompt}{self.suffix}{suffix}{self.middle}"


KNOWN = (
    Markers("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    Markers("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    Markers("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    Markers("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
)


def not_supported(model: str) -> InvalidRequestError:
    """The refusal for a model that has no such tokens."""
    return InvalidRequestError(
        f"The model '{model}' was not trained to fill in the middle. Leave 'suffix' out.",
        param="suffix",
        code="unsupported_parameter",
    )
