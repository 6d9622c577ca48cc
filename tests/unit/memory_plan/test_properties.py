"""Properties of every plan, for any card, models and requirements."""

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.memory_plan import Card, EngineRequirements, ModelShape, make_plan
from domain.roles import DEFAULT_ROLES, Role
from domain.units import GIB

CACHE_TYPES = ["auto", "fp8", "int8_per_token_head", "int4_per_token_head", "float32"]
few = st.one_of(st.none(), st.integers(1, 64))


@st.composite
def shapes(draw: st.DrawFn) -> ModelShape:
    heads, layers = draw(st.sampled_from([1, 8, 32])), draw(st.integers(1, 80))
    sliding = draw(st.integers(0, layers))
    return ModelShape(
        name="drawn",
        architecture="X",
        layers=layers,
        hidden=draw(st.sampled_from([64, 1024, 8192])),
        intermediate=draw(st.sampled_from([0, 128, 28672])),
        vocabulary=draw(st.integers(100, 300_000)),
        heads=heads,
        kv_heads=draw(st.sampled_from([1, heads])),
        head_dim=draw(st.sampled_from([32, 128])),
        max_context=draw(st.integers(16, 200_000)),
        dtype_bytes=draw(st.sampled_from([2, 4])),
        float_weights=draw(st.integers(1, 20 * 10**9)),
        quantized_bytes=draw(st.integers(0, 20 * 10**9)),
        sliding_window=128 if sliding else None,
        sliding_layers=sliding,
        latent_dim=draw(st.sampled_from([None, 576])),
        is_encoder=draw(st.booleans()),
    )


@st.composite
def requirements(draw: st.DrawFn, role: Role) -> EngineRequirements:
    shape = draw(shapes())
    return EngineRequirements(
        role=role,
        shape=shape,
        context=draw(st.one_of(st.none(), st.integers(1, shape.max_context))),
        concurrency=draw(few),
        batched_tokens=draw(st.one_of(st.none(), st.integers(1, 16384))),
        sequences=draw(few),
        cache_dtype=draw(st.sampled_from(CACHE_TYPES)),
        cache_bytes=draw(st.one_of(st.none(), st.integers(1, 40 * GIB))),
        budget_bytes=draw(st.one_of(st.none(), st.integers(1, 100 * GIB))),
        eager=draw(st.booleans()),
    )


pairs = st.tuples(requirements(Role.EMBED), requirements(Role.GENERATE)).map(list)


@st.composite
def cards(draw: st.DrawFn) -> Card:
    total = draw(st.integers(GIB, 200 * GIB))
    return Card(
        name="drawn",
        total_bytes=total,
        used_bytes=draw(st.sampled_from([0, total // 10])),
        is_gpu=draw(st.booleans()),
    )


@given(cards(), pairs)
@settings(deadline=None)
def test_the_parts_add_up_to_the_card(card: Card, engines: list[EngineRequirements]):
    plan = make_plan(card, engines)
    for engine in plan.engines:
        assert sum(part.bytes for part in engine.parts) == engine.total_bytes
        assert all(part.bytes > 0 for part in engine.parts)
    given = card.used_bytes + plan.reserve_bytes + sum(engine.total_bytes for engine in plan.engines)
    if plan.fits:
        assert given <= card.total_bytes
        assert plan.missing_bytes == 0
        assert plan.changes == []
        # What an engine's budget leaves over is the engine's.
        if all(engine.budget_bytes is None for engine in engines):
            slack = sum(engine.kv_block_bytes for engine in plan.engines)
            assert card.total_bytes - given - plan.free_bytes <= slack
    else:
        assert plan.missing_bytes > 0
        assert plan.changes


@given(cards(), pairs)
@settings(deadline=None)
def test_engines_of_a_fitting_plan_can_start(card: Card, engines: list[EngineRequirements]):
    plan = make_plan(card, engines)
    if not plan.fits:
        return
    for engine in plan.engines:
        # vLLM requires room for one request of full length.
        assert engine.kv_cache_memory_bytes >= engine.kv_cache_needed_bytes
        assert all(fitting.requests >= 1 for fitting in engine.fitting)
        others = sum(other.total_bytes for other in plan.engines if other is not engine)
        if engine.gpu_memory_utilization is not None:
            free = card.total_bytes - card.used_bytes - others
            smallest = card.total_bytes // 10_000 + 1
            assert 0 < engine.gpu_memory_utilization * card.total_bytes <= max(free, smallest)


@given(cards(), pairs, st.sampled_from(DEFAULT_ROLES), st.data())
@settings(deadline=None)
def test_larger_requirements_never_need_less_memory(
    card: Card, engines: list[EngineRequirements], role: Role, data: st.DataObject
):
    shape = next(engine.shape for engine in engines if engine.role is role)
    short = data.draw(st.integers(1, shape.max_context))
    long = data.draw(st.integers(short, shape.max_context))
    fixed: dict[str, Any] = {"batched_tokens": 2048, "sequences": 16}

    def needed(**what: Any) -> tuple[int, int]:
        other = {"context": 16, "concurrency": 1}
        changed = [
            msgspec.structs.replace(engine, **fixed, **(what if engine.role is role else other))
            for engine in engines
        ]
        plan = make_plan(card, changed)
        engine = plan.engine(role)
        assert engine is not None
        return engine.kv_cache_needed_bytes, plan.missing_bytes

    fewer = needed(context=short, concurrency=2)
    for more in (needed(context=long, concurrency=2), needed(context=short, concurrency=3)):
        assert more[0] >= fewer[0]
        assert more[1] >= fewer[1]


@given(pairs, st.integers(GIB, 100 * GIB), st.integers(0, 100 * GIB))
@settings(deadline=None)
def test_what_fits_a_card_fits_a_larger_one(engines: list[EngineRequirements], total: int, more: int):
    if make_plan(Card(name="drawn", total_bytes=total), engines).fits:
        assert make_plan(Card(name="drawn", total_bytes=total + more), engines).fits
