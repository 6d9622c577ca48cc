import pytest

from adapters.vllm_flags import MemoryFlags, memory_arguments, memory_flags, other_arguments
from domain.backend import Role
from domain.memory_plan import Card, EngineWish, make_plan
from tests.unit.memory_plan.shapes import GENERATOR, GIB


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
        # Of two the last one counts.
        ("--max-model-len 8192 --max-model-len 4096", {"context": 4096}),
        ("-tp 2", {"unplanned": "-tp"}),
        ("--tensor-parallel-size=1", {}),
        ("--quantization fp8", {"unplanned": "--quantization"}),
        ("--load-format dummy", {}),
        ("--enable-lora --seed 1", {"unplanned": "--enable-lora"}),
        ("--max-model-len 'oops", {}),
    ],
)
def test_what_flags_say_of_memory(flags, found):
    assert memory_flags(flags) == MemoryFlags(**found)


@pytest.mark.parametrize(
    ("flags", "rest"),
    [
        ("", ""),
        ("--seed 1 --max-model-len 8192 --enable-lora", "--seed 1 --enable-lora"),
        ("--max_model_len=8192", ""),
        ("--no-enforce-eager --seed=1", "--seed=1"),
        ("--hf-overrides '{\"a\": 1}' --kv-cache-dtype fp8", "--hf-overrides '{\"a\": 1}'"),
        ("'oops", "'oops"),
    ],
)
def test_what_they_say_besides(flags, rest):
    assert other_arguments(flags) == rest


def test_a_plans_flags_say_what_the_plan_was_made_with():
    wish = EngineWish(role=Role.GENERATE, shape=GENERATOR, context=8192, cache_dtype="fp8", eager=True)
    plan = make_plan(Card(name="a card", total_bytes=24 * GIB), [wish])
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


def test_the_models_own_context_is_left_unsaid():
    wish = EngineWish(role=Role.GENERATE, shape=GENERATOR)
    plan = make_plan(Card(name="a card", total_bytes=80 * GIB), [wish])
    assert "--max-model-len" not in memory_arguments(plan.engines[0])
