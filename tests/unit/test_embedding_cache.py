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
    """The engine's own answer."""
    fake = FakeBackend(Role.EMBED)
    await fake.start()
    return await embed(fake, *inputs)


def computed(fake: FakeBackend) -> list[list]:
    return [request.inputs for request in fake.seen]


async def test_known_inputs_are_not_computed_again():
    fake = FakeBackend(Role.EMBED)
    backend = await caching(fake)
    first = await embed(backend, "a", "b")
    again = await embed(backend, "b", "c", "a", "b")
    assert again == await plain("b", "c", "a", "b")
    assert first.prompt_tokens == 2
    assert computed(fake) == [["a", "b"], ["c"]]
    stats = backend.stats
    assert (stats.hits, stats.misses, stats.shared, stats.entries) == (3, 3, 0, 3)


async def test_a_repeated_input_of_a_request_is_computed_once():
    fake = FakeBackend(Role.EMBED)
    assert await embed(await caching(fake), "a", "a") == await plain("a", "a")
    assert computed(fake) == [["a"]]


@pytest.mark.parametrize(
    "fields", [{"dimensions": 4}, {"truncate_prompt_tokens": 1}, {"add_special_tokens": False}]
)
async def test_parameters_that_change_a_vector_are_part_of_the_key(fields):
    fake = FakeBackend(Role.EMBED)
    backend = await caching(fake)
    await embed(backend, "ab")
    await embed(backend, "ab", **fields)
    assert computed(fake) == [["ab"], ["ab"]]


async def test_a_text_and_its_token_ids_have_different_keys():
    fake = FakeBackend(Role.EMBED)
    backend = await caching(fake)
    await embed(backend, "a")
    await embed(backend, [ord("a")])
    assert len(fake.seen) == 2


async def test_equal_concurrent_inputs_are_computed_once():
    fake = FakeBackend(Role.EMBED, delay_s=0.01)
    backend = await caching(fake)
    one, two, three = await asyncio.gather(
        embed(backend, "a", "b"), embed(backend, "b", "c"), embed(backend, "a", "b", "c")
    )
    assert computed(fake) == [["a", "b"], ["c"]]
    assert three == await plain("a", "b", "c")
    assert (one.prompt_tokens, two.prompt_tokens) == (2, 2)
    assert backend.stats.shared == 4


async def test_cancelling_the_first_request_does_not_affect_those_that_share():
    fake = FakeBackend(Role.EMBED, delay_s=0.01)
    backend = await caching(fake)
    first = asyncio.create_task(embed(backend, "a"))
    await until(lambda: fake.running == 1)
    second = asyncio.create_task(embed(backend, "a"))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == await plain("a")
    assert computed(fake) == [["a"]]


async def test_a_computation_is_cancelled_with_its_last_request():
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


async def test_an_invalid_input_of_another_request_does_not_fail_a_request():
    fake = FakeBackend(Role.EMBED, delay_s=0.01)
    backend = await caching(fake)
    bad = asyncio.create_task(embed(backend, "a", "x" * 999))
    await asyncio.sleep(0)
    good = asyncio.create_task(embed(backend, "a"))
    with pytest.raises(ContextLengthError):
        await bad
    assert await good == await plain("a")


async def test_failures_are_not_cached():
    fake = FakeBackend(Role.EMBED)
    backend = await caching(fake)
    fake.fail_next = BackendUnavailableError("gone")
    with pytest.raises(BackendUnavailableError):
        await embed(backend, "a")
    assert (await embed(backend, "a")).prompt_tokens == 1


async def test_the_least_recently_used_entry_is_evicted():
    fake = FakeBackend(Role.EMBED)
    entry = ENTRY_OVERHEAD_BYTES + 4 + 4 * DIMENSIONS
    backend = await caching(fake, max_bytes=2 * entry)
    for text in ("a", "b", "a", "c"):
        await embed(backend, text)
    assert backend.stats.entries == 2
    assert backend.stats.bytes == 2 * entry
    fake.seen.clear()
    await embed(backend, "a", "c")
    assert computed(fake) == []
    await embed(backend, "b")
    assert computed(fake) == [["b"]]


async def test_an_entry_larger_than_the_cache_is_not_stored():
    backend = await caching(FakeBackend(Role.EMBED), max_bytes=10)
    await embed(backend, "a")
    assert backend.stats.entries == backend.stats.bytes == 0


@pytest.mark.parametrize("event", ["start", "probe"])
async def test_the_cache_is_cleared_if_the_engine_may_have_changed(event):
    fake = FakeBackend(Role.EMBED)
    backend = await caching(fake)
    await embed(backend, "a")
    if event == "start":
        await backend.start()
    else:
        fake.fail_probe = BackendUnavailableError("gone")
        with pytest.raises(BackendUnavailableError):
            await backend.probe()
    await embed(backend, "a")
    assert computed(fake) == [["a"], ["a"]]


async def test_without_tokens_per_input_only_single_inputs_are_cached():
    fake = FakeBackend(Role.EMBED)
    fake.reports_tokens_per_input = False
    backend = await caching(fake)
    await embed(backend, "a", "b")
    assert (await embed(backend, "a")).prompt_tokens == 1
    assert (await embed(backend, "a")).prompt_tokens == 1
    assert computed(fake) == [["a", "b"], ["a"]]


@given(st.lists(st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=5), max_size=12), st.integers(0, 2000))
def test_answers_equal_those_of_the_backend_for_any_cache_size(requests, max_bytes):
    async def run() -> None:
        backend = await caching(FakeBackend(Role.EMBED), max_bytes=max_bytes)
        for inputs in requests:
            assert await embed(backend, *inputs) == await plain(*inputs)
            assert backend.stats.bytes <= max_bytes

    asyncio.run(run())


async def test_vectors_of_a_call_that_began_before_a_clear_are_not_stored():
    fake = FakeBackend(Role.EMBED, delay_s=0.01)
    backend = await caching(fake)
    under_way = asyncio.create_task(embed(backend, "a"))
    await until(lambda: fake.running == 1)
    backend.clear()
    assert await under_way == await plain("a")
    assert backend.stats.entries == 0
