"""Tokenizes with the model's `tokenizers` tokenizer directly, several times faster than through transformers.

transformers builds, checks and unpacks a `BatchEncoding` for each text, around a tokenizer of the library
`tokenizers`. A copy of that tokenizer is used instead, but only if it gives the same tokens as vLLM's renderer for
a few texts, and only for prompts that are neither truncated nor echoed.
"""

import copy
from dataclasses import replace
from typing import Any

from vllm.config import ModelConfig
from vllm.renderers import BaseRenderer
from vllm.renderers.inputs.preprocess import parse_model_prompt

from adapters.vllm.dialect.tokenizer_probes import PROBES
from domain.requests import Prompt


class QuickTokenizer:
    """Tokenizes texts without truncation."""

    def __init__(self, tokenizer: Any) -> None:
        """Copy a tokenizer.

        Args:
            tokenizer: a `tokenizers.Tokenizer`.
        """
        self._tokenizer = copy.deepcopy(tokenizer)
        # Files keep the settings of a training run.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def encode(self, prompts: list[Prompt], *, add_special_tokens: bool) -> list[Prompt]:
        """Token ids of each prompt; prompts of token ids are returned unchanged."""
        encode = self._tokenizer.encode
        return [
            encode(prompt, add_special_tokens=add_special_tokens).ids if isinstance(prompt, str) else prompt
            for prompt in prompts
        ]


def quick_tokenizer(renderer: BaseRenderer, model_config: ModelConfig) -> QuickTokenizer | None:
    """A quick tokenizer for a renderer, or None if it would not give the same tokens."""
    backend = getattr(renderer.get_tokenizer(), "backend_tokenizer", None)
    if backend is None:
        return None
    quick = QuickTokenizer(backend)
    for special in (True, False):
        params = replace(
            renderer.default_cmpl_tok_params,
            max_total_tokens=None,
            max_output_tokens=0,
            add_special_tokens=special,
        )
        rendered = renderer.render_cmpl([parse_model_prompt(model_config, text) for text in PROBES], params)
        theirs = [item["prompt_token_ids"] for item in rendered]
        if quick.encode(list(PROBES), add_special_tokens=special) != theirs:
            return None
    return quick
