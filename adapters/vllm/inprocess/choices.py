"""Converts vLLM's outputs for one completion to the domain's deltas."""

from typing import Any

from vllm.outputs import RequestOutput

from adapters.vllm.dialect.request_fields import stop_sequence
from adapters.vllm.inprocess.translate import finish_reason, output_logprobs, prompt_logprobs
from domain.requests import GenerationRequest
from domain.results import GenerationDelta, TokenLogprob


class Choices:
    """Converts the outputs of one vLLM request to deltas, and counts completion tokens."""

    def __init__(self, request: GenerationRequest, *, prompt_text: str, tokenizer: Any) -> None:
        self._request = request
        self._logprobs = request.sampling.logprobs
        self._prompt_only = request.sampling.max_tokens == 0
        self._prompt_text = prompt_text
        self._tokenizer = tokenizer
        self._to_echo = set(range(request.sampling.n)) if request.echo else set()
        self._prompt_logprobs: list[TokenLogprob] = []
        self.completion_tokens = 0
        self.cached_tokens: int | None = None
        """Prompt tokens from the prefix cache, once the first output has arrived."""

    def deltas(self, output: RequestOutput) -> list[GenerationDelta]:
        """One delta for each choice with new output."""
        deltas: list[GenerationDelta] = []
        if self.cached_tokens is None:
            # Of several choices only the first may have computed the prompt.
            self.cached_tokens = output.num_cached_tokens
        if self._logprobs is not None and not self._prompt_logprobs and output.prompt_logprobs:
            # Only the first output is sure to have them: vLLM merges the outputs of several choices, and attaches
            # the prompt's log probabilities to whichever choice comes first.
            self._prompt_logprobs = prompt_logprobs(output, self._logprobs, self._tokenizer)
        for choice in output.outputs:
            text = "" if self._prompt_only else choice.text
            logprobs = None
            if self._logprobs is not None:
                logprobs = [] if self._prompt_only else output_logprobs(choice, self._logprobs, self._tokenizer)
            if choice.index in self._to_echo:
                self._to_echo.remove(choice.index)
                text = self._prompt_text + text
                if logprobs is not None:
                    logprobs = self._prompt_logprobs + logprobs
            reason = finish_reason(choice, self._request)
            if not self._prompt_only:
                self.completion_tokens += len(choice.token_ids)
            delta = GenerationDelta(
                index=choice.index,
                text=text,
                logprobs=logprobs,
                finish_reason=reason,
                stop_sequence=stop_sequence(choice.stop_reason, self._request),
            )
            if delta.has_content:
                deltas.append(delta)
        return deltas
