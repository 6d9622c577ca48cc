import pytest

from app.commands.doctor.finding import Verdict
from app.commands.doctor.models import check_chat_template, check_presence, check_role, kind_of
from domain.model_facts import ModelFacts
from domain.roles import ROLES, Role


def facts(**known):
    return ModelFacts(**{"name": "m", "origin": "hub", "hub_answers": True, **known})


def of(architecture, **known):
    return facts(config={"architectures": [architecture]}, **known)


def classifier(labels: int):
    names = {str(label): f"LABEL_{label}" for label in range(labels)}
    return facts(config={"architectures": ["BertForSequenceClassification"], "id2label": names})


@pytest.mark.parametrize(
    ("model", "verdict", "message"),
    [
        (facts(), Verdict.OK, "is in this machine's cache"),
        (facts(hub_answers=False), Verdict.OK, "the hub is unreachable, but not needed"),
        (facts(fetch_bytes=9 * 2**30), Verdict.OK, "will be fetched from the hub: 9.0 GiB"),
        (facts(fetch_bytes=1, hub_answers=False), Verdict.FAILURE, "the hub is unreachable"),
        (facts(origin="package"), Verdict.OK, "is prepared"),
        (facts(origin="package", fetch_bytes=1), Verdict.OK, "with pip"),
        (facts(origin="folder", weight_bytes=5), Verdict.OK, "a local folder"),
        (facts(origin="folder", weight_bytes=0), Verdict.FAILURE, "no weights"),
    ],
)
def test_where_a_model_comes_from(model, verdict, message):
    finding = check_presence(Role.EMBED, model)
    assert finding.verdict is verdict
    assert message in finding.found
    assert (finding.advice is None) == (verdict is Verdict.OK)


@pytest.mark.parametrize(
    ("role", "model", "verdict"),
    [
        (Role.EMBED, of("BertModel"), Verdict.OK),
        (Role.EMBED, of("Qwen3ForCausalLM", is_sentence_encoder=True), Verdict.OK),
        (Role.EMBED, of("Qwen3ForCausalLM"), Verdict.WARNING),
        (Role.EMBED, of("BertForSequenceClassification"), Verdict.FAILURE),
        (Role.EMBED, facts(package_role=Role.EMBED), Verdict.OK),
        (Role.EMBED, facts(package_role=Role.GENERATE), Verdict.FAILURE),
        (Role.GENERATE, of("Qwen3ForCausalLM"), Verdict.OK),
        (Role.GENERATE, of("LlavaForConditionalGeneration"), Verdict.OK),
        (Role.GENERATE, of("Qwen3ForCausalLM", is_sentence_encoder=True), Verdict.WARNING),
        (Role.GENERATE, of("BertModel"), Verdict.FAILURE),
        (Role.GENERATE, facts(package_role=Role.EMBED), Verdict.FAILURE),
        (Role.GENERATE, facts(package_role=Role.GENERATE), Verdict.OK),
        (Role.GENERATE, of("SomethingNew"), None),
        (Role.GENERATE, facts(), None),
        (Role.GENERATE, facts(config={"architectures": "odd"}), None),
        (Role.RERANK, classifier(1), Verdict.OK),
        (Role.RERANK, classifier(3), Verdict.FAILURE),
        (Role.RERANK, of("BertForSequenceClassification"), Verdict.FAILURE),
        (Role.RERANK, of("Qwen3ForCausalLM"), Verdict.OK),
        (Role.RERANK, of("Qwen3ForCausalLM", is_sentence_encoder=True), Verdict.FAILURE),
        (Role.RERANK, of("LlamaForCausalLM"), Verdict.FAILURE),
        (Role.RERANK, of("BertModel"), Verdict.FAILURE),
        (Role.RERANK, facts(), None),
    ],
)
def test_a_model_has_to_fit_its_role(role, model, verdict):
    finding = check_role(role, model)
    assert (finding and finding.verdict) is verdict
    if verdict in (Verdict.WARNING, Verdict.FAILURE):
        assert f"MODEL_{ROLES[role].prefix}_NAME" in finding.advice


def test_longer_suffixes_have_precedence():
    assert kind_of("XForRewardModel") == "embed"
    assert kind_of("XLMHeadModel") == "generate"
    assert kind_of("XClassificationModel") == "classify"


@pytest.mark.parametrize(
    ("has_one", "flags", "verdict"),
    [
        (True, [], Verdict.OK),
        (None, [], Verdict.OK),
        (False, [], Verdict.WARNING),
        (False, ["--chat-template", "x.jinja"], Verdict.OK),
        (False, ["--chat-template=x.jinja"], Verdict.OK),
        (False, ["--chat-template-content-format", "string"], Verdict.WARNING),
    ],
)
def test_a_chat_needs_a_template(has_one, flags, verdict):
    assert check_chat_template(Role.GENERATE, facts(has_chat_template=has_one), flags=flags).verdict is verdict
