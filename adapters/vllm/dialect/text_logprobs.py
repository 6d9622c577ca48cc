"""Reduces the log probabilities of a chat choice to those of its text.

vLLM returns one entry for each token that the model generated: also for reasoning, for the markup of reasoning
and tool calls, for the token that ends the turn, and for stop sequences. OpenAI's `logprobs.content` belongs to
the message's content. Neither the engine nor a server says which token became which text, so the tokens are
aligned with the parsed output.
"""

import re
from collections import deque

import msgspec

from domain.results import GenerationDelta, TokenLogprob

_GAP = "\ufffd \n\r\t"
"""Characters of a text that may be in no token's own text: invalid bytes, and white space, such as the space
before a word that tokenizers like Llama 2's drop when they decode a single token."""
_SOLID = re.compile(f"[^{_GAP}]")
MAX_GAP = 64
"""The most of them that may precede the next token. Without a limit each token would look at a long run again."""
_WAIT = -1


class _Part:
    """Consecutive text, or consecutive reasoning."""

    def __init__(self, text: str, *, is_reasoning: bool) -> None:
        self.text = text
        self.is_reasoning = is_reasoning
        self.position = 0
        self.is_begun = False
        self._solid = -1

    @property
    def is_used(self) -> bool:
        return self.position == len(self.text)

    @property
    def has_only_gaps(self) -> bool:
        if self._solid < self.position:
            found = _SOLID.search(self.text, self.position)
            self._solid = found.start() if found else len(self.text)
        return self._solid == len(self.text)

    def extend(self, text: str) -> None:
        """Append text, and forget what is used."""
        self.text = self.text[self.position :] + text
        self.position = 0
        self._solid = -1

    def take(self, length: int) -> str:
        begin = self.position
        self.position += length
        self.is_begun = self.is_begun or length > 0
        return self.text[begin : self.position]


class TextLogprobs:
    """Aligns the tokens of one choice with its text and reasoning.

    The entries that it keeps, joined, are exactly the text. A token that only partly belongs to the text, because
    a stop sequence begins within it, is shortened. Tokens that are only a part of a character have no text of
    their own; the last token of the character has it.
    """

    def __init__(self) -> None:
        self._tokens: deque[TokenLogprob] = deque()
        self._parts: deque[_Part] = deque()
        self._textless: list[TokenLogprob] = []
        self._has_logprobs = False

    def reduce(self, delta: GenerationDelta) -> GenerationDelta:
        """The choice's next delta with the entries that its text completes.

        An entry is held back until its text has arrived, because vLLM holds back text that may become a stop
        sequence or markup. Without log probabilities a delta is returned unchanged.
        """
        if delta.logprobs is not None:
            self._has_logprobs = True
            self._tokens += delta.logprobs
        if not self._has_logprobs:
            return delta
        self._add(delta.reasoning, is_reasoning=True)
        self._add(delta.text, is_reasoning=False)
        is_last = delta.finish_reason is not None
        return msgspec.structs.replace(delta, logprobs=self._match(is_last=is_last))

    def _add(self, text: str, *, is_reasoning: bool) -> None:
        if not text:
            return
        last = self._parts[-1] if self._parts else None
        if last is not None and last.is_reasoning == is_reasoning:
            last.extend(text)
        else:
            self._parts.append(_Part(text, is_reasoning=is_reasoning))

    def _match(self, *, is_last: bool) -> list[TokenLogprob]:
        """Match tokens as long as there is text for them, and return those of the text."""
        kept: list[TokenLogprob] = []
        while self._tokens and self._parts:
            part = self._parts[0]
            is_complete = is_last or len(self._parts) > 1
            token = self._tokens[0]
            length = _length(token.token, part, is_complete=is_complete)
            if length == _WAIT:
                break
            if not token.token:
                self._textless.append(self._tokens.popleft())
            elif length == 0 and is_complete and self._is_over(part):
                kept += self._end_part()
            else:
                kept += self._take(self._tokens.popleft(), part, length)
        while is_last and self._parts:
            kept += self._end_part()
        return kept

    def _is_over(self, part: _Part) -> bool:
        """Whether no later token has the rest of a complete part."""
        return part.has_only_gaps and (bool(self._textless) or (part.is_reasoning and part.is_begun))

    def _take(self, token: TokenLogprob, part: _Part, length: int) -> list[TokenLogprob]:
        """Consume a token and its characters; length 0 means that the token is markup."""
        textless, self._textless = self._textless, []
        text = part.take(length)
        if part.is_used:
            self._parts.popleft()
        return [*textless, msgspec.structs.replace(token, token=text)] if text and not part.is_reasoning else []

    def _end_part(self) -> list[TokenLogprob]:
        """Drop a part of which no token has the rest; the preceding tokens of invalid bytes stand for it."""
        part = self._parts.popleft()
        textless, self._textless = self._textless, []
        if part.is_reasoning or not textless:
            return []
        *others, last = textless
        return [*others, msgspec.structs.replace(last, token=part.text[part.position :])]


def _length(token: str, part: _Part, *, is_complete: bool) -> int:
    """The number of the part's next characters for which a token stands.

    Returns:
        0 for a token that is not in the part, _WAIT if that depends on text that has not arrived.
    """
    text, begin = part.text, part.position
    for form in dict.fromkeys((token, token.lstrip())):
        for start in range(begin, begin + MAX_GAP + 1 if form else begin):
            if text.startswith(form, start):
                return start + len(form) - begin
            rest = text[start : start + len(form)]
            if form.startswith(rest):
                if not is_complete:
                    return _WAIT
                if rest:
                    return len(text) - begin
            if not rest or rest[0] not in _GAP:
                break
    return 0
