"""From the deltas of an engine to OpenAI's completion objects, the same for every engine."""

import msgspec

from domain.openai.common import Usage, UsageCounter
from domain.openai.completions import Completion, CompletionChoice, Logprobs
from domain.results import FinishReason, GenerationDelta, GenerationUsage, TokenLogprob


class CompletionPresenter:
    """Turns the events of one API request, of all its prompts, into one answer or a series of chunks.

    With p prompts and n choices for each, choice i of prompt j has the index j · n + i.
    """

    def __init__(self, *, completion_id: str, created: int, model: str, n: int, include_usage: bool) -> None:
        self._id = completion_id
        self._created = created
        self._model = model
        self._n = n
        # Absent from chunks unless asked for; then null on all but the last.
        self._chunk_usage: None | msgspec.UnsetType = None if include_usage else msgspec.UNSET
        self._offsets: dict[int, int] = {}
        self._usage = UsageCounter()

    def chunk(self, prompt_index: int, delta: GenerationDelta) -> Completion:
        """The chunk for one delta."""
        index = prompt_index * self._n + delta.index
        choice = CompletionChoice(
            index=index,
            text=delta.text,
            logprobs=self._logprobs(index, delta.logprobs),
            finish_reason=delta.finish_reason,
        )
        return self._completion([choice], self._chunk_usage)

    def count(self, usage: GenerationUsage) -> None:
        """Add what one prompt took to the sum."""
        self._usage.add(usage)

    def usage_chunk(self) -> Completion:
        """The last chunk of a stream with `include_usage`: no choice, and the usage of all prompts."""
        return self._completion([], self._usage.total())

    def whole(self, deltas: list[tuple[int, GenerationDelta]]) -> Completion:
        """The answer for all deltas of all prompts, given in the order in which they came."""
        parts: dict[int, _ChoiceParts] = {}
        for prompt_index, delta in deltas:
            choice = parts.setdefault(prompt_index * self._n + delta.index, _ChoiceParts())
            choice.add(delta)
        choices = [
            CompletionChoice(
                index=index,
                text="".join(choice.texts),
                logprobs=self._logprobs(index, choice.logprobs),
                finish_reason=choice.finish_reason,
            )
            for index, choice in sorted(parts.items())
        ]
        return self._completion(choices, self._usage.total())

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


class _ChoiceParts:
    """What has come of one choice so far."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.logprobs: list[TokenLogprob] | None = None
        self.finish_reason: FinishReason | None = None

    def add(self, delta: GenerationDelta) -> None:
        self.texts.append(delta.text)
        if delta.logprobs is not None:
            self.logprobs = [*(self.logprobs or []), *delta.logprobs]
        self.finish_reason = delta.finish_reason or self.finish_reason
