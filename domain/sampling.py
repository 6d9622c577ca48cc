"""How an engine shall choose the tokens of a completion."""

from typing import Any

import msgspec


class StructuredOutputs(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A form that the whole output must have; exactly one of the first six is set.

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
    """JSON text of xgrammar's structural tags."""
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False
    whitespace_pattern: str | None = None

    @property
    def forms(self) -> int:
        """How many of the six are set."""
        forms = (self.json, self.json_object, self.regex, self.choice, self.grammar, self.structural_tag)
        return sum(form is not None for form in forms)


class SamplingParameters(msgspec.Struct, frozen=True, kw_only=True):
    """How to sample. None leaves a parameter to the model's own generation configuration.

    Names, ranges and meaning are OpenAI's (`CreateCompletionRequest`), and vLLM's below `structured_outputs`.
    """

    max_tokens: int | None = 16
    """Most tokens for each choice; None for as many as the context holds. 0 is for `echo` alone: the prompt
    and nothing more."""
    n: int = 1
    temperature: float | None = None
    top_p: float | None = None
    stop: list[str] = []
    seed: int | None = None
    logprobs: int | None = None
    """Number of most likely tokens to tell for each position; None tells no log probabilities at all."""
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[int, float] | None = None
    """Token id → bias in -100 … 100."""

    structured_outputs: StructuredOutputs | None = None
    form_param: str = "structured_outputs"
    """The request field in which the client asked for that form."""
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
