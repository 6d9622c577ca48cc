"""Converts results and events of any engine to OpenAI's completion objects."""

from collections.abc import Sequence

import msgspec

from domain.openai.common import Usage, UsageCounter
from domain.openai.completions import Completion, CompletionChoice, Logprobs
from domain.results import GenerationDelta, GenerationEvent, GenerationResult, GenerationUsage, TokenLogprob


class CompletionPresenter:
    """Converts the events of all prompts of one request to one response or a series of chunks.

    With n choices per prompt, choice i of prompt j has the index j · n + i.
    """

    def __init__(self, *, completion_id: str, created: int, model: str, n: int, include_usage: bool) -> None:
        self._id = completion_id
        self._created = created
        self._model = model
        self._n = n
        # Absent from chunks by default; with `include_usage`, null on all but the last.
        self._chunk_usage: None | msgspec.UnsetType = None if include_usage else msgspec.UNSET
        self._offsets: dict[int, int] = {}
        self.usage = UsageCounter()

    def chunks(self, event: GenerationEvent, prompt_index: int = 0) -> list[Completion]:
        """The chunk for a delta; none for a prompt's usage, which is added to the total."""
        if isinstance(event, GenerationUsage):
            self.usage.add(event)
            return []
        choice = self._choice(event, prompt_index)
        return [self._completion([choice], self._chunk_usage)]

    def last_chunks(self) -> list[Completion]:
        """With `include_usage`, the last chunk, which has the usage of all prompts and no choices."""
        return [self._completion([], self.usage.total())] if self._chunk_usage is None else []

    def whole(self, results: Sequence[GenerationResult]) -> Completion:
        """The response for the results of all prompts."""
        for result in results:
            self.usage.add(result.usage)
        choices = [
            self._choice(choice, prompt_index)
            for prompt_index, result in enumerate(results)
            for choice in result.choices
        ]
        return self._completion(choices, self.usage.total())

    def _choice(self, delta: GenerationDelta, prompt_index: int) -> CompletionChoice:
        index = prompt_index * self._n + delta.index
        return CompletionChoice(
            index=index,
            text=delta.text,
            logprobs=self._logprobs(index, delta.logprobs),
            finish_reason=delta.finish_reason,
        )

    def _completion(self, choices: list[CompletionChoice], usage: Usage | None | msgspec.UnsetType) -> Completion:
        return Completion(id=self._id, created=self._created, model=self._model, choices=choices, usage=usage)

    def _logprobs(self, index: int, tokens: list[TokenLogprob] | None) -> Logprobs | None:
        if tokens is None:
            return None
        offset = self._offsets.get(index, 0)
        offsets: list[int] = []
        for token in tokens:
            offsets.append(offset)
            offset += len(token.token)
        self._offsets[index] = offset
        return Logprobs(
            text_offset=offsets,
            token_logprobs=[token.logprob for token in tokens],
            tokens=[token.token for token in tokens],
            top_logprobs=[None if token.top is None else dict(token.top) for token in tokens],
        )
