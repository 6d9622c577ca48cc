import msgspec
import pytest

from domain.errors import ConfigurationError
from domain.memory_plan import Card, EngineRequirements, MemoryPlan, make_plan
from domain.roles import Role
from domain.units import GIB
from tests.unit.memory_plan.shapes import EMBEDDER, GENERATOR, LLAMA_70B, MINILM, changed


def card(gib: float, **what) -> Card:
    return Card(name="a card", total_bytes=int(gib * GIB), **what)


def ram(gib: float) -> Card:
    return card(gib, is_gpu=False)


def pair_on(memory: Card, embed=None, generate=None) -> MemoryPlan:
    return make_plan(
        memory,
        [
            EngineRequirements(role=Role.EMBED, shape=EMBEDDER, **(embed or {})),
            EngineRequirements(role=Role.GENERATE, shape=GENERATOR, **(generate or {})),
        ],
    )


def gib_of(plan: MemoryPlan, role: Role, name: str) -> float:
    return next((part.bytes for part in plan.engine(role).parts if part.name == name), 0) / GIB


@pytest.mark.parametrize(
    ("gib", "contexts", "sequences"),
    [(16, (4096, 8192), 16), (24, (8192, 16384), 256), (48, (8192, 40960), 256), (141, (8192, 40960), 256)],
)
def test_the_default_models_on_cards(gib, contexts, sequences):
    plan = pair_on(card(gib))
    assert plan.fits
    assert tuple(engine.max_model_len for engine in plan.engines) == contexts
    assert {engine.max_num_seqs for engine in plan.engines} == {sequences}
    # At least two concurrent requests of full length.
    assert all(engine.fitting[-1].requests >= 2 for engine in plan.engines)


def test_large_cards_get_large_batches():
    assert pair_on(card(48)).engine(Role.GENERATE).max_num_batched_tokens == 2048
    assert pair_on(card(80)).engine(Role.GENERATE).max_num_batched_tokens == 8192


def test_the_weights_of_the_default_models_are_as_published():
    plan = pair_on(card(24))
    assert gib_of(plan, Role.EMBED, "weights") == pytest.approx(1.11, abs=0.005)
    assert gib_of(plan, Role.GENERATE, "weights") == pytest.approx(8.79, abs=0.005)


def test_the_generation_engine_gets_the_remaining_memory():
    small, large = pair_on(card(48)), pair_on(card(80))
    assert small.free_bytes < small.engine(Role.GENERATE).kv_block_bytes
    assert gib_of(small, Role.EMBED, "kv_cache") == gib_of(large, Role.EMBED, "kv_cache")
    assert gib_of(large, Role.GENERATE, "kv_cache") - gib_of(small, Role.GENERATE, "kv_cache") > 25


def test_the_shares_leave_the_reserve():
    for gib in (16, 24, 48, 80, 141):
        plan = pair_on(card(gib))
        shares = sum(engine.gpu_memory_utilization for engine in plan.engines)
        assert shares <= 1 - plan.reserve_bytes / plan.card.total_bytes
        for engine in plan.engines:
            # The engine that starts second finds its share free although the first one is running.
            share = engine.gpu_memory_utilization * plan.card.total_bytes
            assert share <= engine.total_bytes + engine.kv_block_bytes


def test_memory_of_other_programs_is_not_planned():
    alone, shared = pair_on(card(48)), pair_on(card(48, used_bytes=8 * GIB))
    assert shared.fits
    lost = gib_of(alone, Role.GENERATE, "kv_cache") - gib_of(shared, Role.GENERATE, "kv_cache")
    assert lost == pytest.approx(8, abs=0.01)


def test_parallel_starts_need_room_for_two_peaks():
    assert pair_on(card(48)).may_start_together
    assert not pair_on(card(16)).may_start_together


def test_requirements_are_kept():
    plan = pair_on(
        card(80),
        embed={"context": 1024, "sequences": 10, "batched_tokens": 3000},
        generate={"context": 4096, "concurrency": 50, "cache_dtype": "fp8", "eager": True},
    )
    embed, generate = plan.engines
    assert (embed.max_model_len, embed.max_num_seqs, embed.max_num_batched_tokens) == (1024, 10, 3000)
    assert (generate.max_model_len, generate.kv_cache_dtype) == (4096, "fp8")
    assert generate.fitting[-1].requests >= 50
    assert gib_of(plan, Role.GENERATE, "cuda_graphs") == 0


def test_batches_allow_the_required_concurrency():
    plan = pair_on(card(141), generate={"context": 512, "concurrency": 300})
    assert plan.engine(Role.GENERATE).max_num_seqs == 300


def test_the_order_of_the_engines_does_not_matter():
    engines = [
        EngineRequirements(role=Role.GENERATE, shape=GENERATOR),
        EngineRequirements(role=Role.EMBED, shape=EMBEDDER),
    ]
    assert make_plan(card(24), engines) == pair_on(card(24))


def test_a_budget_is_kept():
    plan = pair_on(card(80), embed={"budget_bytes": 6 * GIB}, generate={"budget_bytes": 20 * GIB})
    assert plan.fits
    for engine, gib in zip(plan.engines, (6, 20), strict=True):
        assert gib * GIB - engine.kv_block_bytes < engine.total_bytes <= gib * GIB
        assert engine.gpu_memory_utilization == pytest.approx(gib / 80, abs=0.0001)


def test_a_cache_size_is_kept():
    plan = pair_on(card(80), generate={"cache_bytes": 5 * GIB})
    assert plan.engine(Role.GENERATE).kv_cache_memory_bytes == 5 * GIB
    assert plan.free_bytes > 40 * GIB


def test_a_budget_too_small_for_the_model_does_not_fit():
    plan = pair_on(card(80), generate={"budget_bytes": 9 * GIB})
    assert not plan.fits
    assert plan.changes[0].what == "Let the plan choose the memory of the generation engine."
    assert plan.changes[0].fits_then


def test_budgets_larger_than_the_card_do_not_fit():
    plan = pair_on(card(24), embed={"budget_bytes": 6 * GIB}, generate={"budget_bytes": 20 * GIB})
    assert plan.missing_bytes == 2 * GIB + plan.reserve_bytes


def test_a_context_longer_than_the_models_is_rejected():
    with pytest.raises(ConfigurationError, match=r"50000 .*'Qwen/Qwen3-8B-FP8'.* 40960"):
        pair_on(card(80), generate={"context": 50000})


def test_a_context_longer_than_the_default_is_possible():
    longer = changed(GENERATOR, max_context=4096, longest_context=131072)
    usual = make_plan(card(80), [EngineRequirements(role=Role.GENERATE, shape=longer)]).engines[0]
    set_ = make_plan(card(80), [EngineRequirements(role=Role.GENERATE, shape=longer, context=32768)]).engines[0]
    assert (usual.max_model_len, set_.max_model_len) == (4096, 32768)
    with pytest.raises(ConfigurationError, match="131072"):
        make_plan(card(80), [EngineRequirements(role=Role.GENERATE, shape=longer, context=131073)])


@pytest.mark.parametrize("setting", [{"budget_bytes": 4 * GIB}, {"cache_bytes": GIB}])
def test_memory_settings_of_the_embedding_engine_do_not_limit_generation(setting):
    plan = pair_on(card(80), embed=setting)
    assert plan.fits
    embed, generate = plan.engines
    assert (generate.max_model_len, generate.max_num_seqs) == (40960, 256)
    assert embed.max_model_len < 8192


@pytest.mark.parametrize("gib", [14, 16, 24])
def test_a_batch_has_a_token_for_each_sequence(gib):
    engine = pair_on(card(gib), generate={"sequences": 1024}).engine(Role.GENERATE)
    assert engine.max_num_seqs == 1024
    assert engine.max_num_batched_tokens >= 1024


def test_an_encoder_has_no_cache():
    plan = make_plan(card(24), [EngineRequirements(role=Role.EMBED, shape=MINILM, cache_bytes=GIB)])
    engine = plan.engines[0]
    assert (engine.kv_cache_memory_bytes, engine.fitting) == (0, [])
    assert (engine.max_model_len, engine.limits_context) == (256, False)
    # It computes whole texts in one step.
    assert engine.max_num_batched_tokens >= 256


def test_the_weights_of_a_float32_model_take_half_on_a_gpu():
    engine = EngineRequirements(role=Role.EMBED, shape=MINILM)
    engines = [make_plan(memory, [engine]).engines[0] for memory in (card(8), ram(8))]
    assert [engine.parts[0].bytes for engine in engines] == [2 * MINILM.float_weights, 4 * MINILM.float_weights]


def test_changes_are_ordered_by_cost():
    plan = pair_on(card(12), generate={"context": 8192, "concurrency": 4, "sequences": 256})
    suggested = [change.what for change in plan.changes]
    kinds = ["full-length", "batch sizes of the generation", "Shorten the context", "FP8", "FP8",
             "CUDA graphs", "CUDA graphs", "Use a smaller"]  # fmt: skip
    assert len(suggested) == len(kinds)
    assert all(kind in what for kind, what in zip(kinds, suggested, strict=True))
    assert [change.fits_then for change in plan.changes] == [False] * 7 + [True]
    assert all(change.saves_bytes > 0 for change in plan.changes)
    assert sum(change.saves_bytes for change in plan.changes) == plan.missing_bytes


def test_changes_stop_when_the_plan_fits():
    plan = pair_on(card(24), generate={"context": 16384, "concurrency": 16})
    (change,) = plan.changes
    assert change.what.startswith("Plan for 4 full-length generation request(s)")
    assert (change.fits_then, change.saves_bytes) == (True, plan.missing_bytes)
    # Check the suggestion.
    assert pair_on(card(24), generate={"context": 16384, "concurrency": 4}).fits


def test_the_suggested_card_is_large_enough():
    engine = EngineRequirements(role=Role.GENERATE, shape=LLAMA_70B)
    last = make_plan(card(80), [engine]).changes[-1]
    gib = int(last.what.rpartition("with ")[2].split()[0])
    assert make_plan(card(gib), [engine]).fits


def test_fp8_cache_is_suggested_only_for_cards_that_support_it():
    def advises_fp8(capability: str | None) -> bool:
        plan = pair_on(card(12, capability=capability))
        return any("fp8" in change.what for change in plan.changes)

    assert [advises_fp8(each) for each in (None, "9.0", "8.9", "8.0")] == [True, True, True, False]


def test_the_cache_is_one_gib_on_the_cpu():
    plan = pair_on(ram(64))
    for engine in plan.engines:
        assert GIB - engine.kv_block_bytes < engine.kv_cache_memory_bytes <= GIB
        assert engine.gpu_memory_utilization is None
        # The longest context of which one request fits into it.
        assert engine.fitting[-1].requests >= 1
    assert {part.name for part in plan.engines[0].parts} == {"weights", "kv_cache", "activations", "processes"}
    assert plan.may_start_together


def test_a_longer_context_gets_a_larger_cache_on_the_cpu():
    plan = pair_on(ram(64), generate={"context": 32768})
    assert plan.engine(Role.GENERATE).kv_cache_memory_bytes > 4 * GIB


def test_a_machine_with_too_little_memory():
    plan = pair_on(ram(8))
    assert not plan.fits
    assert plan.missing_bytes > 4 * GIB
    assert plan.changes[-1].what.endswith("GiB more.")


def test_a_cache_that_holds_no_request_does_not_fit():
    plan = pair_on(ram(64), generate={"cache_bytes": 100 * 2**20, "context": 8192})
    assert plan.missing_bytes == plan.engine(Role.GENERATE).kv_cache_needed_bytes - 100 * 2**20


def test_a_smaller_vocabulary_needs_less_memory_for_sampling():
    small = changed(GENERATOR, vocabulary=32000)
    engines = [EngineRequirements(role=Role.GENERATE, shape=shape) for shape in (GENERATOR, small)]
    plans = [make_plan(card(24), [engine]) for engine in engines]
    assert gib_of(plans[1], Role.GENERATE, "activations") < gib_of(plans[0], Role.GENERATE, "activations") / 2


def three_on(memory: Card, **first) -> MemoryPlan:
    """Two pooling engines and a generation engine."""
    return make_plan(
        memory,
        [
            EngineRequirements(role=Role.EMBED, shape=EMBEDDER, **first),
            EngineRequirements(role=Role.EMBED, shape=changed(EMBEDDER, name="another")),
            EngineRequirements(role=Role.GENERATE, shape=GENERATOR),
        ],
    )


@pytest.mark.parametrize("memory", [card(48), card(80), ram(96)])
def test_three_engines_share_a_card(memory):
    two, three = pair_on(memory), three_on(memory)
    assert three.fits
    assert [engine.model for engine in three.engines] == [EMBEDDER.name, "another", GENERATOR.name]
    first, second, generate = three.engines
    # Equal pooling engines get the same memory; the generation engine gets the rest.
    assert msgspec.structs.replace(second, model=first.model) == first
    if memory.is_gpu:
        assert first == two.engine(Role.EMBED)
        lost = two.engine(Role.GENERATE).total_bytes - generate.total_bytes
        assert lost == pytest.approx(second.total_bytes, abs=generate.kv_block_bytes)
    assert sum(engine.total_bytes for engine in three.engines) + three.free_bytes + three.reserve_bytes == (
        pytest.approx(memory.total_bytes, abs=3 * generate.kv_block_bytes)
    )


def test_a_change_affects_only_its_engine():
    plan = three_on(card(16), context=8192)
    assert not plan.fits
    assert plan.changes[0].what == "Shorten the context of the embedding engine to 4096 tokens."
    assert three_on(card(80), context=1024).engines[1].max_model_len == 8192


@pytest.mark.parametrize("count", [1, 2, 3])
def test_generation_engines_share_the_remaining_memory(count):
    engine = EngineRequirements(role=Role.GENERATE, shape=GENERATOR)
    plan = make_plan(card(80), [engine] * count)
    assert plan.fits
    sizes = [engine.total_bytes for engine in plan.engines]
    assert max(sizes) == min(sizes)
    assert plan.free_bytes < GIB / 100
