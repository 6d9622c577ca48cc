"""The embedding server's tokenizer, here, to count the tokens of each input.

vLLM's answer has only the sum of all tokens, and requests of several clients can be joined into one only where
each client's own count is known. A tokenizer is used only after it has given the same tokens as the server itself
for a few texts, and its counts only where their sum is the server's. Texts are sent as texts: vLLM's server takes
longer to check lists of token ids than to tokenize.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from adapters.vllm.dialect.tokenizer_probes import PROBES

log = logging.getLogger("memoria")

FILE = "tokenizer.json"


class InputTokenizer:
    """Texts to token ids, special tokens included, uncut."""

    def __init__(self, file: Path) -> None:
        """Load a tokenizer.

        Args:
            file: a `tokenizer.json`.

        Raises:
            Exception: it can't be read (`tokenizers` has no class of its own for that).
        """
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(file))
        # Files carry the settings of some training run; the server decides what is too long.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts)]

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text."""
        return [len(encoding) for encoding in self._tokenizer.encode_batch_fast(texts)]


async def matching_tokenizer(
    names: list[str], asked: Callable[[str], Awaitable[list[int]]]
) -> InputTokenizer | None:
    """The first tokenizer that agrees with the server, or None.

    Args:
        names: folders, files or hub names, the likeliest first. Nothing is downloaded.
        asked: the server's own tokens for a text.
    """
    for name in names:
        file = find_tokenizer(name)
        if file is None:
            continue
        try:
            tokenizer = await asyncio.to_thread(InputTokenizer, file)
        except Exception as error:
            log.warning("%s of '%s' can't be used: %s", FILE, name, error)
            continue
        if [await asked(text) for text in PROBES] == tokenizer.encode(PROBES):
            return tokenizer
        log.warning("%s of '%s' does not give the server's own tokens.", FILE, name)
    return None


def find_tokenizer(name: str) -> Path | None:
    """The file, in a folder, or in the hub's cache on this machine."""
    path = Path(name).expanduser()
    for file in (path, path / FILE):
        if file.is_file():
            return file
    try:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError
    except ImportError:
        return None
    try:
        cached = try_to_load_from_cache(name, FILE)
    except HFValidationError:
        return None
    return Path(cached) if isinstance(cached, str) else None
