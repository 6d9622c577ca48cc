"""Sampling fields that the requests of several endpoints share: OpenAI's, and vLLM's additions.

vLLM's fields have the names and meaning of its own server (vllm.entrypoints.openai.completion.protocol, 0.32.0),
so that `extra_body` works as with vLLM's server.
"""

import re
from typing import Annotated, Any, NamedTuple

import msgspec

from domain.errors import InvalidRequestError
from domain.openai.common import MAX_TOKEN_ID, StreamOptions, TokenId, check_truncation
from domain.openai.field import describe
from domain.openai.nesting import check_json
from domain.sampling import SamplingParameters, StructuredOutputs

MAX_STOPS = 4

# Integers of at most ten digits, with optional leading zeros.
_TOKEN_ID = re.compile(r"0{0,20}[0-9]{1,10}", re.ASCII)

Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]
Bias = Annotated[float, msgspec.Meta(ge=-100, le=100)]
Seed = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
TokenCount = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
TokenIds = Annotated[list[TokenId], msgspec.Meta(max_length=4096)]


class SharedSamplingFields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sampling fields of completions, chat completions and responses."""

    frequency_penalty: Annotated[
        Penalty | None, describe("Penalizes tokens by how often they already appear.")
    ] = None
    logit_bias: Annotated[dict[str, Bias] | None, describe("Token id → bias.")] = None
    presence_penalty: Annotated[Penalty | None, describe("Penalizes tokens that already appear.")] = None
    seed: Annotated[Seed | None, describe("Makes sampling reproducible.")] = None
    stop: Annotated[str | list[str] | None, describe("At most 4 sequences that end the text.")] = None
    stream: Annotated[bool | None, describe("Stream deltas as server-sent events.")] = None
    temperature: Annotated[
        Annotated[float, msgspec.Meta(ge=0, le=2)] | None,
        describe("0 is greedy. Default: the value of the model's generation_config.json, or 1."),
    ] = None
    top_p: Annotated[Annotated[float, msgspec.Meta(ge=0, le=1)] | None, describe("0 is greedy.")] = None
    user: Annotated[str | None, describe("Accepted and ignored.", effect="none")] = None

    allowed_token_ids: Annotated[
        TokenIds | None, describe("The only tokens that may be generated.", vllm=True)
    ] = None
    bad_words: Annotated[list[str] | None, describe("Words that must not be generated.", vllm=True)] = None
    guided_choice: Annotated[list[str] | None, describe("Old name of `structured_outputs.choice`.", vllm=True)] = (
        None
    )
    guided_grammar: Annotated[str | None, describe("Old name of `structured_outputs.grammar`.", vllm=True)] = None
    guided_json: Annotated[
        dict[str, Any] | str | None, describe("Old name of `structured_outputs.json`.", vllm=True)
    ] = None
    guided_regex: Annotated[str | None, describe("Old name of `structured_outputs.regex`.", vllm=True)] = None
    ignore_eos: Annotated[bool | None, describe("Continue after the end-of-sequence token.", vllm=True)] = None
    include_stop_str_in_output: Annotated[
        bool | None, describe("Keep the stop sequence in the text.", vllm=True)
    ] = None
    min_p: Annotated[
        Annotated[float, msgspec.Meta(ge=0, le=1)] | None,
        describe("Minimum probability of a token, relative to the most likely one's.", vllm=True),
    ] = None
    min_tokens: Annotated[TokenCount | None, describe("Minimum tokens before the text may end.", vllm=True)] = None
    repetition_penalty: Annotated[
        Annotated[float, msgspec.Meta(gt=0, le=100)] | None,
        describe("Values above 1 penalize tokens that appear in the prompt or the text.", vllm=True),
    ] = None
    skip_special_tokens: Annotated[bool | None, describe("Omit special tokens from the text.", vllm=True)] = None
    spaces_between_special_tokens: Annotated[
        bool | None, describe("Put spaces between special tokens.", vllm=True)
    ] = None
    stop_token_ids: Annotated[TokenIds | None, describe("Tokens that end the text.", vllm=True)] = None
    structured_outputs: Annotated[
        StructuredOutputs | None,
        describe("Constrains the output: `json`, `json_object`, `regex`, `choice`, `grammar` or `structural_tag`.",
              vllm=True),
    ] = None  # fmt: skip
    top_k: Annotated[
        Annotated[int, msgspec.Meta(ge=-1, le=2**31 - 1)] | None,
        describe("Sample from this number of most likely tokens; 0 or -1 for all.", vllm=True),
    ] = None
    truncate_prompt_tokens: Annotated[
        Annotated[int, msgspec.Meta(ge=-1, le=2**31 - 1)] | None,
        describe("Truncate the prompt to this number of tokens; -1 for the context length.", vllm=True),
    ] = None

    def to_sampling(
        self,
        *,
        max_tokens: int | None,
        logprobs: int | None,
        response_format: StructuredOutputs | None = None,
        format_param: str = "response_format",
        n: int = 1,
    ) -> SamplingParameters:
        """Convert to the domain's sampling parameters.

        Args:
            max_tokens: maximum tokens per choice, None for the rest of the context length.
            logprobs: number of most likely tokens to return, None for no log probabilities.
            response_format: the constraint that the endpoint's own field sets, if it has one.
            format_param: the name of that field.
            n: choices per prompt.

        Raises:
            InvalidRequestError: an invalid value, or an invalid combination.
        """
        check_truncation(self.truncate_prompt_tokens)
        if self.min_tokens and max_tokens is not None and self.min_tokens > max_tokens:
            raise InvalidRequestError(
                f"'min_tokens' ({self.min_tokens}) must not exceed the maximum number of tokens ({max_tokens}).",
                param="min_tokens",
                code="invalid_value",
            )
        constraint = _single_constraint(self, response_format, format_param)
        return SamplingParameters(
            max_tokens=max_tokens,
            n=n,
            temperature=self.temperature,
            top_p=self.top_p,
            stop=_stops(self.stop),
            seed=self.seed,
            logprobs=logprobs,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            logit_bias=_logit_bias(self.logit_bias),
            structured_outputs=constraint.outputs if constraint is not None else None,
            structured_outputs_param=constraint.param if constraint is not None else "structured_outputs",
            top_k=self.top_k,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            min_tokens=self.min_tokens,
            stop_token_ids=self.stop_token_ids,
            allowed_token_ids=_not_empty(self.allowed_token_ids, "allowed_token_ids"),
            bad_words=_bad_words(self.bad_words),
            ignore_eos=self.ignore_eos,
            include_stop_str_in_output=self.include_stop_str_in_output,
            skip_special_tokens=self.skip_special_tokens,
            spaces_between_special_tokens=self.spaces_between_special_tokens,
        )


class SamplingFields(SharedSamplingFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sampling fields of completions and chat completions."""

    max_tokens: Annotated[TokenCount | None, describe("Maximum tokens per choice.")] = None
    n: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=128)] | None,
        describe("Choices per prompt; with greedy sampling, one is generated and copied."),
    ] = None
    stream_options: Annotated[
        StreamOptions | None,
        describe("`include_usage` is supported; `include_obfuscation` is ignored, because no padding is added."),
    ] = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a usage chunk."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def check_stream_options(self) -> None:
        """Raise InvalidRequestError for `stream_options` without `stream`."""
        if self.stream_options is not None and not self.stream:
            raise InvalidRequestError(
                "'stream_options' is only allowed when 'stream' is true.", param="stream_options"
            )


def _stops(stop: str | list[str] | None) -> list[str]:
    stops = [stop] if isinstance(stop, str) else list(stop or [])
    if len(stops) > MAX_STOPS:
        raise InvalidRequestError(
            f"'stop' has {len(stops)} sequences; at most {MAX_STOPS} are allowed.",
            param="stop",
            code="array_above_max_length",
        )
    if not all(stops):
        raise InvalidRequestError("'stop' must not contain an empty string.", param="stop")
    return stops


def _bad_words(words: list[str] | None) -> list[str] | None:
    if words is not None and not all(words):
        raise InvalidRequestError(
            "'bad_words' must not contain an empty string.", param="bad_words", code="invalid_value"
        )
    return words


def _logit_bias(bias: dict[str, float] | None) -> dict[int, float] | None:
    if not bias:
        return None
    if not all(_TOKEN_ID.fullmatch(key) and int(key) <= MAX_TOKEN_ID for key in bias):
        raise InvalidRequestError(
            "The keys of 'logit_bias' must be token ids, written as integers.",
            param="logit_bias",
            code="invalid_value",
        )
    return {int(key): value for key, value in bias.items()}


def _not_empty(ids: list[int] | None, param: str) -> list[int] | None:
    if ids is not None and not ids:
        raise InvalidRequestError(f"'{param}' must not be empty.", param=param, code="empty_array")
    return ids


class _Constraint(NamedTuple):
    """A constraint on the output, and the request field that sets it."""

    param: str
    outputs: StructuredOutputs


def _single_constraint(
    fields: SharedSamplingFields, response_format: StructuredOutputs | None, format_param: str
) -> _Constraint | None:
    """The constraint on the output, which one of several fields may set."""
    candidates = {
        format_param: response_format,
        "structured_outputs": fields.structured_outputs,
        "guided_json": _outputs(json=fields.guided_json),
        "guided_regex": _outputs(regex=fields.guided_regex),
        "guided_choice": _outputs(choice=fields.guided_choice),
        "guided_grammar": _outputs(grammar=fields.guided_grammar),
    }
    constraints = [_Constraint(param, outputs) for param, outputs in candidates.items() if outputs is not None]
    if len(constraints) > 1:
        first, second, *_ = constraints
        raise InvalidRequestError(
            f"'{second.param}' can't be used together with '{first.param}': both constrain the output.",
            param=second.param,
            code="invalid_value",
        )
    if not constraints:
        return None
    (constraint,) = constraints
    if constraint.outputs.constraint_count != 1:
        raise InvalidRequestError(
            f"'{constraint.param}' must have exactly one of 'json', 'json_object', 'regex', 'choice', 'grammar' "
            "and 'structural_tag'.",
            param=constraint.param,
            code="invalid_value",
        )
    if constraint.outputs.choice is not None and not all(constraint.outputs.choice or [""]):
        raise InvalidRequestError(
            f"'{constraint.param}' must have at least one choice, and no empty ones.",
            param=constraint.param,
            code="invalid_value",
        )
    check_json(constraint.outputs.json, constraint.param)
    return constraint


def _outputs(**field: Any) -> StructuredOutputs | None:
    return None if None in field.values() else StructuredOutputs(**field)
