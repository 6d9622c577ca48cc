"""Converts domain requests to vLLM's sampling parameters and vLLM's outputs to domain results."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

from adapters.vllm.dialect.refusals import generation_aborted
from adapters.vllm.dialect.request_fields import sampling_fields
from domain.requests import GenerationRequest
from domain.results import FinishReason, TokenLogprob

# JSON has no infinity; vLLM's server and OpenAI return this value instead.
MIN_LOGPROB = -9999.0


def sampling_params(
    request: GenerationRequest, *, model_defaults: Mapping[str, Any], room: int, streams: bool
) -> SamplingParams:
    """vLLM's sampling parameters for a request.

    Args:
        request: the domain's request.
        model_defaults: the model's generation configuration, for parameters that the request does not set
            (`ModelConfig.get_diff_sampling_param`).
        room: tokens that are left in the context for the completion; the maximum of `max_tokens`.
        streams: whether to return outputs incrementally instead of each choice at its end.

    Source: vllm.entrypoints.openai.completion.protocol.CompletionRequest.to_sampling_params (0.32.0).
    """
    sampling = request.sampling
    fields = sampling_fields(sampling)
    if sampling.structured_outputs is not None:
        fields["structured_outputs"] = StructuredOutputsParams(**fields["structured_outputs"])
    if "stop_token_ids" in model_defaults and "stop_token_ids" in fields:
        fields["stop_token_ids"] = [*model_defaults["stop_token_ids"], *fields["stop_token_ids"]]
    values = dict(model_defaults) | fields
    # The engine has to generate at least one token, even if only the prompt is echoed.
    values["max_tokens"] = room if sampling.max_tokens is None else min(sampling.max_tokens, room) or 1
    return SamplingParams.from_optional(
        **values,
        logprobs=sampling.logprobs,
        prompt_logprobs=sampling.logprobs if request.echo else None,
        output_kind=RequestOutputKind.DELTA if streams else RequestOutputKind.FINAL_ONLY,
        skip_clone=True,
    )


def finish_reason(
    output: CompletionOutput, request: GenerationRequest, *, has_reasoned: bool = False
) -> FinishReason | None:
    """Why a choice ended, or None if it has not.

    Args:
        output: vLLM's output for one choice.
        request: the request.
        has_reasoned: whether the engine has output tokens that no grammar constrains.

    Raises:
        InvalidRequestError: the engine can't satisfy the request's output constraint.
        BackendFailedError: the engine aborted the choice.
    """
    if output.finish_reason is None:
        return None
    try:
        return FinishReason(output.finish_reason)
    except ValueError:
        raise generation_aborted(request, has_reasoned=has_reasoned) from None


def output_logprobs(output: CompletionOutput, count: int, tokenizer: Any) -> list[TokenLogprob]:
    """Log probabilities of a delta's tokens, with at most `count` + 1 alternatives each."""
    return _token_logprobs(output.token_ids, output.logprobs or [], count, tokenizer)


def prompt_logprobs(output: RequestOutput, count: int, tokenizer: Any) -> list[TokenLogprob]:
    """Log probabilities of the prompt's tokens; None for the first."""
    return _token_logprobs(output.prompt_token_ids or [], output.prompt_logprobs or [], count, tokenizer)


def _token_logprobs(
    token_ids: Sequence[int], positions: Iterable[Any], count: int, tokenizer: Any
) -> list[TokenLogprob]:
    tokens: list[TokenLogprob] = []
    for token_id, candidates in zip(token_ids, positions, strict=True):
        if candidates is None:
            tokens.append(TokenLogprob(tokenizer.decode(token_id), None, None))
            continue
        # vLLM lists the chosen token first, then the most likely ones in order.
        top = [
            (_text(candidate_id, candidate, tokenizer), max(candidate.logprob, MIN_LOGPROB))
            for candidate_id, candidate in list(candidates.items())[: count + 1]
        ]
        chosen = candidates[token_id]
        tokens.append(TokenLogprob(_text(token_id, chosen, tokenizer), max(chosen.logprob, MIN_LOGPROB), top))
    return tokens


def _text(token_id: int, candidate: Any, tokenizer: Any) -> str:
    text = candidate.decoded_token
    return str(tokenizer.decode(token_id) if text is None else text)
