import pytest

from adapters.vllm.dialect.memory_flags import MemoryFlags, memory_arguments, memory_flags, other_arguments
from adapters.vllm.inprocess.engine_args import _drop_overridden
from domain.memory_plan import Card, EngineRequirements, make_plan
from domain.roles import Role
from domain.units import GIB
from tests.unit.memory_plan.shapes import GENERATOR, MINILM, changed


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ("", {}),
        ("--seed 1 --max-logprobs 20", {}),
        ("--max-model-len 8192", {"context": 8192}),
        ("--max_model_len=8k", {"context": 8000}),
        ("--max-model-len 8K", {"context": 8192}),
        ("--max-model-len auto", {}),
        ("--max-model-len -1", {}),
        ("--max-num-seqs 64 --max-num-batched-tokens 2.5k", {"sequences": 64, "batched_tokens": 2500}),
        ("--kv-cache-memory-bytes 1G --kv-cache-dtype fp8", {"cache_bytes": 2**30, "cache_dtype": "fp8"}),
        ("--dtype float32", {"element_bytes": 4}),
        ("--dtype auto", {}),
        ("--gpu-memory-utilization 0.5", {"share": 0.5}),
        ("--gpu-memory-utilization .5", {"share": 0.5}),
        ("--gpu-memory-utilization lots", {}),
        ("--enforce-eager", {"eager": True}),
        ("--enforce-eager --no-enforce-eager", {}),
        # The last one wins.
        ("--max-model-len 8192 --max-model-len 4096", {"context": 4096}),
        ("-tp 2", {"unsupported": "--tensor-parallel-size"}),
        ("-tp=1", {}),
        ("-sc '{}'", {"unsupported": "--speculative-config"}),
        ("--spec-method ngram", {"unsupported": "--spec-method"}),
        ("-dcp 2", {"unsupported": "--decode-context-parallel-size"}),
        ("-q fp8", {"unsupported": "--quantization"}),
        ("-qfp8", {"unsupported": "--quantization"}),
        ("-n1", {}),
        ("--block_size 256", {"unsupported": "--block-size"}),
        ("--no-enable-chunked-prefill", {"unsupported": "--no-enable-chunked-prefill"}),
        # Text after a dot is part of the value.
        ("--speculative_config.method ngram", {"unsupported": "--speculative-config"}),
        ("--device-memory-utilization 0.5", {"share": 0.5}),
        # An unambiguous prefix of a name is accepted.
        ("--tensor-parallel 2", {"unsupported": "--tensor-parallel-size"}),
        ("--max-model 4096 --device-mem 0.5", {"context": 4096, "share": 0.5}),
        ("--spec ngram", {}),
        ("--tensor-parallel-size=1", {}),
        ("--quantization fp8", {"unsupported": "--quantization"}),
        ("--load-format dummy", {}),
        ("--enable-lora --seed 1", {"unsupported": "--enable-lora"}),
        ("--max-model-len 'oops", {}),
    ],
)
def test_memory_flags_are_read(flags, found):
    assert memory_flags(flags) == MemoryFlags(**found)


@pytest.mark.parametrize(
    ("flags", "rest"),
    [
        ("", ""),
        ("--seed 1 --max-model-len 8192 --enable-lora", "--seed 1 --enable-lora"),
        ("--max_model_len=8192", ""),
        ("--no-enforce-eager --seed=1", "--seed=1"),
        ("--hf-overrides '{\"a\": 1}' --kv-cache-dtype fp8", "--hf-overrides '{\"a\": 1}'"),
        ("--device-memory-utilization 0.5 --seed 1", "--seed 1"),
        ("-tp 2 --hf-overrides.a 1", "-tp 2 --hf-overrides.a 1"),
        ("'oops", "'oops"),
    ],
)
def test_other_flags_are_kept(flags, rest):
    assert other_arguments(flags) == rest


def test_a_plans_flags_match_the_plan():
    engine = EngineRequirements(role=Role.GENERATE, shape=GENERATOR, context=8192, cache_dtype="fp8", eager=True)
    plan = make_plan(Card(name="a card", total_bytes=24 * GIB), [engine])
    written = memory_flags(memory_arguments(plan.engines[0]))
    engine = plan.engines[0]
    assert written == MemoryFlags(
        context=engine.max_model_len,
        batched_tokens=engine.max_num_batched_tokens,
        sequences=engine.max_num_seqs,
        cache_bytes=engine.kv_cache_memory_bytes,
        cache_dtype="fp8",
        share=engine.gpu_memory_utilization,
        eager=True,
    )


@pytest.mark.parametrize("is_gpu", [True, False])
def test_the_models_context_is_set_on_a_gpu(is_gpu):
    engine = EngineRequirements(role=Role.EMBED, shape=MINILM)
    plan = make_plan(Card(name="memory", total_bytes=80 * GIB, is_gpu=is_gpu), [engine])
    assert ("--max-model-len 256" in memory_arguments(plan.engines[0])) is is_gpu


def test_a_context_that_differs_from_vllms_default_is_set():
    engine = EngineRequirements(role=Role.EMBED, shape=changed(MINILM, longest_context=258))
    plan = make_plan(Card(name="memory", total_bytes=80 * GIB, is_gpu=False), [engine])
    assert "--max-model-len 256" in memory_arguments(plan.engines[0])


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ("--device-memory-utilization=0.5", ["--max-num-seqs", "8"]),
        ("--max_num_seqs 4", ["--gpu-memory-utilization", "0.3"]),
        ("--seed 1", ["--gpu-memory-utilization", "0.3", "--max-num-seqs", "8"]),
    ],
)
def test_overridden_defaults_are_dropped_under_any_name(given, left):
    assert _drop_overridden(["--gpu-memory-utilization", "0.3", "--max-num-seqs", "8"], given.split()) == left
