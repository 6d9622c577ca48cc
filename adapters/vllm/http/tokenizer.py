"""Counts the tokens of each input with a local copy of the embedding server's tokenizer.

vLLM's response has only the total number of tokens, and requests of several clients can be batched into one only
if each client's count is known. A tokenizer is used only if it gives the same tokens as the server for a few
texts, and its counts only if they add up to the server's total. Texts are sent as text: vLLM's server takes
longer to validate lists of token ids than to tokenize.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from adapters.vllm.dialect.tokenizer_probes import PROBES

log = logging.getLogger("memoria")

FILE = "tokenizer.json"


class InputTokenizer:
    """Tokenizes texts with special tokens and without truncation."""

    def __init__(self, file: Path) -> None:
        """Load a tokenizer.

        Args:
            file: a `tokenizer.json`.

        Raises:
            Exception: the file can't be read (`tokenizers` raises no more specific class).
        """
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(file))
        # Files keep the settings of a training run; the server decides what is too long.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts)]

    def count(self, texts: Sequence[str]) -> list[int]:
        """Number of tokens of each text."""
        return [len(encoding) for encoding in self._tokenizer.encode_batch_fast(texts)]


async def matching_tokenizer(
    names: list[str], server_tokens: Callable[[str], Awaitable[list[int]]]
) -> InputTokenizer | None:
    """The first tokenizer that gives the same tokens as the server, or None.

    Args:
        names: folders, files or hub names, most likely first. Nothing is downloaded.
        server_tokens: returns the server's tokens of a text.
    """
    for name in names:
        file = find_tokenizer(name)
        if file is None:
            continue
        try:
            tokenizer = await asyncio.to_thread(InputTokenizer, file)
        except Exception as error:
            log.warning("%s of '%s' can't be loaded: %s", FILE, name, error)
            continue
        if [await server_tokens(text) for text in PROBES] == tokenizer.encode(PROBES):
            return tokenizer
        log.warning("%s of '%s' gives other tokens than the server; not using it.", FILE, name)
    return None


def find_tokenizer(name: str) -> Path | None:
    """The tokenizer file in a folder or in the local hub cache."""
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
