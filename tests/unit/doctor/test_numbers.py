import pytest

from app.commands.doctor.finding import Verdict
from app.commands.doctor.numbers import check_numbers_on_card, check_numbers_on_cpu, quantization
from tests.unit.doctor.test_gpu import card

FP8 = {"quantization_config": {"quant_method": "fp8"}}


@pytest.mark.parametrize(
    ("config", "capability", "verdict"),
    [
        (FP8, "8.9", Verdict.OK),
        (FP8, "9.0", Verdict.OK),
        (FP8, "8.0", Verdict.WARNING),
        (FP8, "7.5", Verdict.WARNING),
        (FP8, "7.0", Verdict.FAILURE),
        ({"quantization_config": {"quant_method": "mxfp4"}}, "7.5", Verdict.FAILURE),
        ({"quantization_config": {"quant_method": "awq"}}, "8.0", Verdict.OK),
        ({"quantization_config": {"quant_method": "brand-new"}}, "7.5", Verdict.OK),
        ({"dtype": "bfloat16"}, "7.5", Verdict.WARNING),
        ({"torch_dtype": "bfloat16"}, "7.5", Verdict.WARNING),
        ({"dtype": "bfloat16"}, "8.0", None),
        ({}, "7.5", None),
        (FP8, None, None),
    ],
)
def test_the_weights_are_compared_with_the_gpu(config, capability, verdict):
    finding = check_numbers_on_card("generate weights", config, card(capability=capability))
    assert (finding and finding.verdict) is verdict


@pytest.mark.parametrize(
    "config", [{}, {"quantization_config": None}, {"quantization_config": {"quant_method": 8}}]
)
def test_plain_weights_have_no_quantization(config):
    assert quantization(config) is None


@pytest.mark.parametrize(
    ("config", "flags", "verdict"),
    [
        (FP8, [], Verdict.FAILURE),
        (FP8, ["--dtype", "bfloat16"], None),
        (FP8, ["--dtype=bfloat16"], None),
        ({"quantization_config": {"quant_method": "compressed-tensors"}}, [], None),
        ({}, [], None),
    ],
)
def test_the_weights_are_compared_with_the_cpu(config, flags, verdict):
    finding = check_numbers_on_cpu("generate weights", config, flags=flags, variable="VLLM_GEN_ARGS")
    assert (finding and finding.verdict) is verdict
    assert finding is None or "VLLM_GEN_ARGS" in finding.advice
