import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import BackendUnavailableError, ContextLengthError
from domain.policies.embedding_cache import ENTRY_OVERHEAD_BYTES, CachingBackend
from domain.port import RequestContext
from domain.requests import EmbeddingRequest
from domain.results import EmbeddingResult
from domain.roles import Role
from tests.fakes import DIMENSIONS, FakeBackend
from tests.unit.waiting import until

CONTEXT = RequestContext(request_id="test")
PLENTY = 2**20


async def caching(fake: FakeBackend, max_bytes: int = PLENTY) -> CachingBackend:
    backend = CachingBackend(fake, max_bytes=max_bytes)
    await backend.start()
    return backend


async def embed(backend, *inputs, **fields) -> EmbeddingResult:
    return await backend.call(EmbeddingRequest(inputs=list(inputs), **fields), CONTEXT)


async def plain(*inputs) -> EmbeddingResult:
    """What the engine itself answers."""
    fake = FakeBackend(Role.EMBED)
    await fake.start()
    return await embed(fake, *inputs)


def asked(fake: FakeBackend) -> list[list]:
    return [request.inputs for request in fake.seen]


async def test_what_was_asked_before_is_not_asked_again():
    fake = FakeBackend(Role.EMBED)
    backend = await caching(fake)
    first = await embed(backend, "a", "b")
    again = await embed(backend, "b", "c", "a", "b")
    assert again == await plain("b", "c", "a", "b")
    assert first.prompt_tokens == 2
    assert asked(fake) == [["a", "b"], ["c"]]
    stats = backend.stats
    assert (stats.hits, stats.misses, stats.shared, stats.entries) == (3, 3, 0, 3)


async def test_an_input_that_comes_twice_in_a_request_is_asked_once():
    fake = FakeBackend(Role.EMBED)
    assert await embed(await caching(fake), "a", "a") == await plain("a", "a")
    assert asked(fake) == [["a"]]


@pytest.mark.parametrize(
    "fields", [{"dimensions": 4}, {"truncate_prompt_tokens": 1}, {"add_special_tokens": False}]
)
async def test_what_changes_a_vector_is_part_of_the_key(fields):
    fake = FakeBackend(Role.EMBED)
    backend = await caching(fake)
    await embed(backend, "ab")
    await embed(backend, "ab", **fields)
    assert asked(fake) == [["ab"], ["ab"]]


async def test_a_text_and_its_tokens_are_not_the_same_key():
    fake = FakeBackend(Role.EMBED)
    backend = await caching(fake)
    await embed(backend, "a")
    await embed(backend, [ord("a")])
    assert len(fake.seen) == 2


async def test_equal_inputs_under_way_are_computed_once():
    fake = FakeBackend(Role.EMBED, delay_s=0.01)
    backend = await caching(fake)
    one, two, three = await asyncio.gather(
        embed(backend, "a", "b"), embed(backend, "b", "c"), embed(backend, "a", "b", "c")
    )
    assert asked(fake) == [["a", "b"], ["c"]]
    assert three == await plain("a", "b", "c")
    assert (one.prompt_tokens, two.prompt_tokens) == (2, 2)
    assert backend.stats.shared == 4


async def test_whoever_shares_is_not_disturbed_when_the_first_leaves():
    fake = FakeBackend(Role.EMBED, delay_s=0.01)
    backend = await caching(fake)
    first = asyncio.create_task(embed(backend, "a"))
    await until(lambda: fake.running == 1)
    second = asyncio.create_task(embed(backend, "a"))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == await plain("a")
    assert asked(fake) == [["a"]]


async def test_the_work_ends_when_all_who_wait_have_left():
    fake = FakeBackend(Role.EMBED, delay_s=3600)
    backend = await caching(fake)
    tasks = [asyncio.create_task(embed(backend, "a")) for _ in range(2)]
    await until(lambda: fake.running == 1)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await until(lambda: fake.running == 0)
    fake.delay_s = 0
    assert await embed(backend, "a") == await plain("a")


async def test_another_ones_bad_input_costs_nobody_else_his_answer():
    fake = FakeBackend(Role.EMBED, delay_s=0.01)
    backend = await caching(fake)
    bad = asyncio.create_task(embed(backend, "a", "x" * 999))
    await asyncio.sleep(0)
    good = asyncio.create_task(embed(backend, "a"))
    with pytest.raises(ContextLengthError):
        await bad
    assert await good == await plain("a")


async def test_failures_are_not_kept():
    fake = FakeBackend(Role.EMBED)
    backend = await caching(fake)
    fake.fail_next = BackendUnavailableError("gone")
    with pytest.raises(BackendUnavailableError):
        await embed(backend, "a")
    assert (await embed(backend, "a")).prompt_tokens == 1


async def test_the_least_recently_used_makes_room():
    fake = FakeBackend(Role.EMBED)
    entry = ENTRY_OVERHEAD_BYTES + 4 + 4 * DIMENSIONS
    backend = await caching(fake, max_bytes=2 * entry)
    for text in ("a", "b", "a", "c"):
        await embed(backend, text)
    assert backend.stats.entries == 2
    assert backend.stats.bytes == 2 * entry
    fake.seen.clear()
    await embed(backend, "a", "c")
    assert asked(fake) == []
    await embed(backend, "b")
    assert asked(fake) == [["b"]]


async def test_what_is_larger_than_all_of_it_is_not_kept():
    backend = await caching(FakeBackend(Role.EMBED), max_bytes=10)
    await embed(backend, "a")
    assert backend.stats.entries == backend.stats.bytes == 0


@pytest.mark.parametrize("trouble", ["start", "probe"])
async def test_an_engine_that_may_be_another_one_is_asked_anew(trouble):
    fake = FakeBackend(Role.EMBED)
    backend = await caching(fake)
    await embed(backend, "a")
    if trouble == "start":
        await backend.start()
    else:
        fake.fail_probe = BackendUnavailableError("gone")
        with pytest.raises(BackendUnavailableError):
            await backend.probe()
    await embed(backend, "a")
    assert asked(fake) == [["a"], ["a"]]


async def test_without_counts_for_each_input_only_single_ones_are_kept():
    fake = FakeBackend(Role.EMBED)
    fake.reports_tokens_per_input = False
    backend = await caching(fake)
    await embed(backend, "a", "b")
    assert (await embed(backend, "a")).prompt_tokens == 1
    assert (await embed(backend, "a")).prompt_tokens == 1
    assert asked(fake) == [["a", "b"], ["a"]]


@given(st.lists(st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=5), max_size=12), st.integers(0, 2000))
def test_answers_are_those_of_the_backend_whatever_is_kept(requests, max_bytes):
    async def run() -> None:
        backend = await caching(FakeBackend(Role.EMBED), max_bytes=max_bytes)
        for inputs in requests:
            assert await embed(backend, *inputs) == await plain(*inputs)
            assert backend.stats.bytes <= max_bytes

    asyncio.run(run())
