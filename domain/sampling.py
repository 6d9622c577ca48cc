"""Sampling parameters of a generation."""

from typing import Any

import msgspec


class StructuredOutputs(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A constraint on the whole output; exactly one of the first six fields is set.

    Names and meaning are vLLM's (`vllm.sampling_params.StructuredOutputsParams`, 0.32.0).
    """

    json: dict[str, Any] | str | None = None
    """JSON schema, as an object or as text."""
    json_object: bool | None = None
    """Any JSON object."""
    regex: str | None = None
    choice: list[str] | None = None
    """One of these texts."""
    grammar: str | None = None
    """Context-free grammar in EBNF or Lark."""
    structural_tag: str | None = None
    """Structural tags of xgrammar, as JSON text."""
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False
    whitespace_pattern: str | None = None

    @property
    def constraint_count(self) -> int:
        """Number of constraints that are set."""
        constraints = (self.json, self.json_object, self.regex, self.choice, self.grammar, self.structural_tag)
        return sum(constraint is not None for constraint in constraints)


class SamplingParameters(msgspec.Struct, frozen=True, kw_only=True):
    """Sampling parameters. None selects the default of the model's generation configuration.

    Names, ranges and meaning are OpenAI's (`CreateCompletionRequest`), and vLLM's below `structured_outputs`.
    """

    max_tokens: int | None = 16
    """Maximum tokens per choice; None for the rest of the context length. 0 is valid only with `echo`, and returns
    the prompt alone."""
    n: int = 1
    temperature: float | None = None
    top_p: float | None = None
    stop: list[str] = []
    seed: int | None = None
    logprobs: int | None = None
    """Number of most likely tokens to return per position; None returns no log probabilities."""
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[int, float] | None = None
    """Token id → bias in -100 … 100."""

    structured_outputs: StructuredOutputs | None = None
    structured_outputs_param: str = "structured_outputs"
    """The request field that sets `structured_outputs`, for error messages."""
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    min_tokens: int | None = None
    stop_token_ids: list[int] | None = None
    allowed_token_ids: list[int] | None = None
    bad_words: list[str] | None = None
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
