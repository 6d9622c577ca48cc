"""The request fields that completions and chat completions share: OpenAI's own, and vLLM's additions.

vLLM's names and meaning are those of its own server (vllm.entrypoints.openai.completion.protocol, 0.32.0), so
that `extra_body` works here as it does there.
"""

import re
from typing import Annotated, Any, NamedTuple

import msgspec

from domain.errors import InvalidRequestError
from domain.openai.common import MAX_TOKEN_ID, StreamOptions, TokenId, check_truncation
from domain.openai.field import about
from domain.openai.nesting import check_json
from domain.sampling import SamplingParameters, StructuredOutputs

MAX_STOPS = 4

# Whole numbers of at most ten digits; zeros in front are harmless.
_TOKEN_ID = re.compile(r"0{0,20}[0-9]{1,10}", re.ASCII)

Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]
Bias = Annotated[float, msgspec.Meta(ge=-100, le=100)]
TokenCount = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
TokenIds = Annotated[list[TokenId], msgspec.Meta(max_length=4096)]


class SamplingFields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to sample, as a client says it."""

    frequency_penalty: Annotated[Penalty | None, about("Against tokens by how often they came.")] = None
    logit_bias: Annotated[dict[str, Bias] | None, about("Token id → bias.")] = None
    max_tokens: Annotated[TokenCount | None, about("Most tokens for each choice.")] = None
    n: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=128)] | None,
        about("Choices for each prompt; greedy ones are generated once and copied."),
    ] = None
    presence_penalty: Annotated[Penalty | None, about("Against tokens that came at all.")] = None
    seed: Annotated[
        Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | None,
        about("The same seed gives the same text."),
    ] = None
    stop: Annotated[str | list[str] | None, about("At most 4 sequences that end the text.")] = None
    stream: Annotated[bool | None, about("Send parts as they come.")] = None
    stream_options: Annotated[
        StreamOptions | None,
        about("`include_usage` is honoured, `include_obfuscation` without effect: no padding is added."),
    ] = None
    temperature: Annotated[
        Annotated[float, msgspec.Meta(ge=0, le=2)] | None,
        about("0 is greedy; left out, the model's own generation_config.json decides, else 1."),
    ] = None
    top_p: Annotated[Annotated[float, msgspec.Meta(ge=0, le=1)] | None, about("0 is greedy.")] = None
    user: Annotated[str | None, about("There is nobody to tell.", effect="none")] = None

    allowed_token_ids: Annotated[TokenIds | None, about("The only tokens to choose from.", vllm=True)] = None
    bad_words: Annotated[list[str] | None, about("Words that must not come.", vllm=True)] = None
    guided_choice: Annotated[list[str] | None, about("Old name of `structured_outputs.choice`.", vllm=True)] = None
    guided_grammar: Annotated[str | None, about("Old name of `structured_outputs.grammar`.", vllm=True)] = None
    guided_json: Annotated[
        dict[str, Any] | str | None, about("Old name of `structured_outputs.json`.", vllm=True)
    ] = None
    guided_regex: Annotated[str | None, about("Old name of `structured_outputs.regex`.", vllm=True)] = None
    ignore_eos: Annotated[bool | None, about("Go on after the end-of-sequence token.", vllm=True)] = None
    include_stop_str_in_output: Annotated[bool | None, about("Keep the stop sequence in the text.", vllm=True)] = (
        None
    )
    min_p: Annotated[
        Annotated[float, msgspec.Meta(ge=0, le=1)] | None,
        about("Least probability of a token, against the likeliest one's.", vllm=True),
    ] = None
    min_tokens: Annotated[TokenCount | None, about("No end before so many tokens.", vllm=True)] = None
    repetition_penalty: Annotated[
        Annotated[float, msgspec.Meta(gt=0, le=100)] | None,
        about("Above 1 against tokens of prompt and text.", vllm=True),
    ] = None
    skip_special_tokens: Annotated[bool | None, about("Leave special tokens out of the text.", vllm=True)] = None
    spaces_between_special_tokens: Annotated[
        bool | None, about("Put spaces between special tokens.", vllm=True)
    ] = None
    stop_token_ids: Annotated[TokenIds | None, about("Tokens that end the text.", vllm=True)] = None
    structured_outputs: Annotated[
        StructuredOutputs | None,
        about("A form of the text: `json`, `json_object`, `regex`, `choice`, `grammar` or `structural_tag`.",
              vllm=True),
    ] = None  # fmt: skip
    top_k: Annotated[
        Annotated[int, msgspec.Meta(ge=-1, le=2**31 - 1)] | None,
        about("Choose among so many tokens; 0 or -1 for all.", vllm=True),
    ] = None
    truncate_prompt_tokens: Annotated[
        Annotated[int, msgspec.Meta(ge=-1, le=2**31 - 1)] | None,
        about("Cut a longer prompt to so many tokens; -1 for what the context holds.", vllm=True),
    ] = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream shall end with a chunk that tells the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def check_stream_options(self) -> None:
        """Raise InvalidRequestError where options of a stream come without one."""
        if self.stream_options is not None and not self.stream:
            raise InvalidRequestError(
                "'stream_options' is only allowed when 'stream' is true.", param="stream_options"
            )

    def to_sampling(
        self, *, max_tokens: int | None, logprobs: int | None, form: StructuredOutputs | None = None
    ) -> SamplingParameters:
        """The domain's parameters.

        Args:
            max_tokens: most tokens for each choice, None for as many as the context holds.
            logprobs: number of likeliest tokens to tell, None for no log probabilities.
            form: a form that another field asks for.

        Raises:
            InvalidRequestError: values that are each possible but not together.
        """
        check_truncation(self.truncate_prompt_tokens)
        if self.min_tokens and max_tokens is not None and self.min_tokens > max_tokens:
            raise InvalidRequestError(
                f"'min_tokens' ({self.min_tokens}) must not be above the most tokens allowed ({max_tokens}).",
                param="min_tokens",
                code="invalid_value",
            )
        asked = _one_form(self, form)
        return SamplingParameters(
            max_tokens=max_tokens,
            n=self.n or 1,
            temperature=self.temperature,
            top_p=self.top_p,
            stop=_stops(self.stop),
            seed=self.seed,
            logprobs=logprobs,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            logit_bias=_logit_bias(self.logit_bias),
            structured_outputs=asked.outputs if asked is not None else None,
            form_param=asked.param if asked is not None else "structured_outputs",
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


def _stops(stop: str | list[str] | None) -> list[str]:
    stops = [stop] if isinstance(stop, str) else list(stop or [])
    if len(stops) > MAX_STOPS:
        raise InvalidRequestError(
            f"'stop' has {len(stops)} sequences; at most {MAX_STOPS} are allowed.",
            param="stop",
            code="array_above_max_length",
        )
    if not all(stops):
        raise InvalidRequestError("'stop' must not hold an empty string.", param="stop")
    return stops


def _bad_words(words: list[str] | None) -> list[str] | None:
    if words is not None and not all(words):
        raise InvalidRequestError(
            "'bad_words' must not hold an empty string.", param="bad_words", code="invalid_value"
        )
    return words


def _logit_bias(bias: dict[str, float] | None) -> dict[int, float] | None:
    if not bias:
        return None
    if not all(_TOKEN_ID.fullmatch(key) and int(key) <= MAX_TOKEN_ID for key in bias):
        raise InvalidRequestError(
            "The keys of 'logit_bias' must be token ids, written as whole numbers.",
            param="logit_bias",
            code="invalid_value",
        )
    return {int(key): value for key, value in bias.items()}


def _not_empty(ids: list[int] | None, param: str) -> list[int] | None:
    if ids is not None and not ids:
        raise InvalidRequestError(f"'{param}' must not be empty.", param=param, code="empty_array")
    return ids


class _Form(NamedTuple):
    """A form of the output, and the request field that asks for it."""

    param: str
    outputs: StructuredOutputs


def _one_form(fields: SamplingFields, other: StructuredOutputs | None) -> _Form | None:
    """The form that the output must have, asked for in one of several ways."""
    asked = {
        "response_format": other,
        "structured_outputs": fields.structured_outputs,
        "guided_json": _of(json=fields.guided_json),
        "guided_regex": _of(regex=fields.guided_regex),
        "guided_choice": _of(choice=fields.guided_choice),
        "guided_grammar": _of(grammar=fields.guided_grammar),
    }
    forms = [_Form(param, outputs) for param, outputs in asked.items() if outputs is not None]
    if len(forms) > 1:
        raise InvalidRequestError(
            f"'{forms[1].param}' can't be used together with '{forms[0].param}': both ask for a form of the text.",
            param=forms[1].param,
            code="invalid_value",
        )
    if not forms:
        return None
    (form,) = forms
    if form.outputs.forms != 1:
        raise InvalidRequestError(
            f"'{form.param}' must have exactly one of 'json', 'json_object', 'regex', 'choice', 'grammar' and "
            "'structural_tag'.",
            param=form.param,
            code="invalid_value",
        )
    if form.outputs.choice is not None and not all(form.outputs.choice or [""]):
        raise InvalidRequestError(
            f"'{form.param}' must offer choices, none of them empty.", param=form.param, code="invalid_value"
        )
    check_json(form.outputs.json, form.param)
    return form


def _of(**form: Any) -> StructuredOutputs | None:
    return None if None in form.values() else StructuredOutputs(**form)
