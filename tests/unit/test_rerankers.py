"""What vLLM needs to know of reranking models."""

import json
from pathlib import Path

import jinja2
import pytest

from adapters.vllm.dialect.rerankers import QWEN3_OVERRIDES, QWEN3_TEMPLATE, reranker_overrides, reranker_template

QWEN3 = {"architectures": ["Qwen3ForCausalLM"]}
CONVERTED = {"architectures": ["Qwen3ForSequenceClassification"]}
BERT = {"architectures": ["BertForSequenceClassification"]}


def test_a_generation_model_that_answers_yes_or_no_becomes_a_classifier():
    overrides = reranker_overrides(QWEN3, is_sentence_encoder=False)
    assert overrides["architectures"] == ["Qwen3ForSequenceClassification"]
    assert overrides["classifier_from_token"] == ["no", "yes"]


def test_the_guide_has_the_same_overrides():
    guide = (Path(__file__).resolve().parents[2] / "docs" / "servers.md").read_text(encoding="utf-8")
    assert f"'{json.dumps(QWEN3_OVERRIDES)}'" in guide


def test_an_embedding_model_of_the_same_architecture_does_not():
    assert reranker_overrides(QWEN3, is_sentence_encoder=True) == {}


@pytest.mark.parametrize("config", [CONVERTED, BERT, {}, {"architectures": None}])
def test_classifiers_need_no_overrides(config):
    assert reranker_overrides(config, is_sentence_encoder=False) == {}


@pytest.mark.parametrize(
    ("config", "name", "has_template"),
    [
        (QWEN3, "any", True),
        (CONVERTED, "org/Qwen3-Reranker-0.6B-seq-cls", True),
        (CONVERTED, "org/qwen3-intent", False),
        (BERT, "some-reranker", False),
        ({}, "some-reranker", False),
    ],
)
def test_only_qwen3_has_a_template(config, name, has_template):
    assert (reranker_template(config, "folder", name) == QWEN3_TEMPLATE) is has_template


def rendered(**more: str) -> str:
    messages = [{"role": "query", "content": "which {{ x }}?"}, {"role": "document", "content": "this & that"}]
    # The options of transformers' chat templates.
    return jinja2.Template(QWEN3_TEMPLATE, trim_blocks=True, lstrip_blocks=True).render(messages=messages, **more)


def test_the_template_has_query_document_and_instruction():
    text = rendered(instruction="Find it.")
    user = text.split("<|im_start|>user\n")[1]
    assert user.startswith("<Instruct>: Find it.\n<Query>: which {{ x }}?\n<Document>: this & that<|im_end|>\n")
    assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_without_an_instruction_the_template_has_the_models_own():
    assert "<Instruct>: Given a web search query, retrieve" in rendered()
    assert rendered(instruction="") == rendered()
