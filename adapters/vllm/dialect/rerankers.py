"""What rerankers need that started as generation models: Qwen3-Reranker answers "yes" or "no".

vLLM makes a classifier of such a model if flags name the two answers, and puts query and document into a template.

Source: vllm.model_executor.models.config.Qwen3ForSequenceClassificationConfig and the model cards of
Qwen/Qwen3-Reranker (prompt format and default instruction).
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

QWEN3_OVERRIDES: Mapping[str, Any] = {
    "architectures": ["Qwen3ForSequenceClassification"],
    "classifier_from_token": ["no", "yes"],
    "is_original_qwen3_reranker": True,
}
_SYSTEM = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".'
)
_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
QWEN3_TEMPLATE = (
    f"<|im_start|>system\n{_SYSTEM}<|im_end|>\n<|im_start|>user\n"
    f"<Instruct>: {{{{ instruction | default({json.dumps(_INSTRUCTION)}, true) }}}}\n"
    '<Query>: {{ messages | selectattr("role", "eq", "query") | map(attribute="content") | first }}\n'
    '<Document>: {{ messages | selectattr("role", "eq", "document") | map(attribute="content") | first }}'
    # An expression, because Jinja removes the last line break of a template.
    '<|im_end|>\n<|im_start|>assistant\n{{ "<think>\\n\\n</think>\\n\\n" }}'
)
"""Template for a query, a document and an optional instruction (Jinja)."""


def reranker_overrides(config: Mapping[str, Any], *, is_sentence_encoder: bool) -> dict[str, Any]:
    """The `--hf-overrides` that make a classifier of a model.

    Args:
        config: the model's config.json.
        is_sentence_encoder: whether it was trained for embeddings. Qwen3-Embedding has the same architecture as
            Qwen3-Reranker, and its scores would mean nothing.
    """
    is_original = "Qwen3ForCausalLM" in _architectures(config) and not is_sentence_encoder
    return dict(QWEN3_OVERRIDES) if is_original else {}


def reranker_template(config: Mapping[str, Any], *names: str) -> str | None:
    """The template for query and document; None if the tokenizer joins them.

    Args:
        config: the model's config.json.
        names: of the model. Conversions of Qwen3-Reranker to a classifier are known only by their names.
    """
    if "Qwen3ForCausalLM" in _architectures(config):
        return QWEN3_TEMPLATE
    is_converted = "Qwen3ForSequenceClassification" in _architectures(config)
    return QWEN3_TEMPLATE if is_converted and any("reranker" in name.lower() for name in names) else None


def _architectures(config: Mapping[str, Any]) -> Sequence[str]:
    found = config.get("architectures")
    return found if isinstance(found, list) else ()
