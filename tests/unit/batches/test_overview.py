"""What the status page and the metrics show of batches: whose, how fast, and also while the store fails."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from app.batches.known import WAIT_S
from app.batches.overview import MAX_AGE_S, SHOWN_ENDED, SHOWN_UNFINISHED, BatchWatch
from app.batches.progress import WINDOW_S, LineRates
from domain.batches import BatchStatus, StoredBatch
from domain.errors import StateUnavailableError
from tests.unit.batches.serving import BatchesApi, batches_serving, eventually_true, lines
from tests.unit.serving import NEVER_S, Api, serving
from tests.unit.waiting import eventually, now, run_instantly

FIRST, SECOND = "sk-first-0123456789", "sk-second-0123456789"
KEYS = {"API_KEYS": f"{FIRST},{SECOND}"}
RUNNING, DONE = BatchStatus.IN_PROGRESS, BatchStatus.COMPLETED


def batch(batch_id: str, **fields: Any) -> StoredBatch:
    given = {"owner": "me", "created": 100, "endpoint": "/v1/embeddings", "input_file_id": "file-1"}
    given |= {"completion_window": "24h", "expires": 900, "status": RUNNING, "total": 100}
    return StoredBatch(id=batch_id, **given | fields)


class ListedBatches:
    """A store of batches, as far as the overview reads one."""

    def __init__(self, *stored: StoredBatch) -> None:
        self.stored = list(stored)
        self.reads: list[str] = []
        self.delay_s = 0.0
        self.error: Exception | None = None

    async def unfinished_batches(self) -> Sequence[StoredBatch]:
        await self._read("unfinished")
        return [each for each in self.stored if each.status is not DONE]

    async def batches(self, owner: str, *, after: str | None, limit: int) -> Sequence[StoredBatch]:
        await self._read(owner)
        return [each for each in reversed(self.stored) if each.owner == owner][: limit + 1]

    async def _read(self, what: str) -> None:
        self.reads.append(what)
        await asyncio.sleep(self.delay_s)
        if self.error is not None:
            raise self.error


class Harness:
    def __init__(self, *stored: StoredBatch) -> None:
        self.store = ListedBatches(*stored)
        self.watch = BatchWatch(self.store, clock=now)  # type: ignore[arg-type]
        self.live: dict[str, StoredBatch] = {}

    async def shown(self, owner: str = "me"):
        return await self.watch.overview(owner, lambda each: self.live.get(each.id, each))

    async def ids(self, owner: str = "me") -> list[str]:
        return [each.id for each in (await self.shown(owner)).batches]


def test_unfinished_batches_come_first_and_then_those_that_ended_last():
    async def main() -> None:
        harness = Harness(
            batch("a", status=DONE, completed_at=500),
            batch("b"),
            batch("c", status=DONE, completed_at=300),
            batch("d", status=BatchStatus.VALIDATING),
        )
        assert await harness.ids() == ["b", "d", "a", "c"]
        found = (await harness.shown()).batches
        assert [each.ended for each in found] == [None, None, 500, 300]

    run_instantly(main())


def test_each_key_sees_its_own_batches_and_only_the_number_of_others():
    async def main() -> None:
        harness = Harness(batch("mine"), batch("theirs", owner="you"), batch("ended", owner="you", status=DONE))
        assert await harness.ids("me") == ["mine"]
        assert await harness.ids("you") == ["theirs", "ended"]
        assert await harness.ids("") == []
        overview = await harness.shown("me")
        assert (overview.unfinished, overview.unfinished_of_all) == (1, 2)

    run_instantly(main())


def test_few_are_shown_and_all_are_counted():
    async def main() -> None:
        ended = [batch(f"ended-{n}", status=DONE, completed_at=n) for n in range(9)]
        harness = Harness(*ended, *(batch(f"batch-{n}") for n in range(SHOWN_UNFINISHED + 7)))
        overview = await harness.shown()
        assert [each.id for each in overview.batches[:2]] == ["batch-0", "batch-1"]
        assert len([each for each in overview.batches if each.ended is None]) == SHOWN_UNFINISHED
        assert len([each for each in overview.batches if each.ended is not None]) <= SHOWN_ENDED
        assert overview.unfinished == SHOWN_UNFINISHED + 7

    run_instantly(main())


def test_the_store_is_read_once_a_second_whoever_asks():
    async def main() -> None:
        harness = Harness(batch("a"))
        harness.store.delay_s = 0.1
        await asyncio.gather(*(harness.shown() for _ in range(50)), harness.watch.counts())
        await harness.shown()
        assert harness.store.reads == ["unfinished", "me"]
        await asyncio.sleep(MAX_AGE_S)
        await asyncio.gather(harness.watch.counts(), harness.shown())
        assert harness.store.reads == ["unfinished", "me"] * 2

    run_instantly(main())


def test_a_batch_that_ends_between_two_reads_is_shown_once():
    async def main() -> None:
        harness = Harness(batch("a"))

        async def end() -> Sequence[StoredBatch]:
            found = list(harness.store.stored)
            harness.store.stored = [batch("a", status=DONE, completed_at=500)]
            return found

        harness.watch._unfinished._read = end
        (shown,) = (await harness.shown()).batches
        assert shown.status is DONE

    run_instantly(main())


@pytest.mark.parametrize(
    ("error", "is_logged"), [(StateUnavailableError(), False), (RuntimeError("unexpected"), True)]
)
def test_while_the_store_fails_what_is_known_is_shown(error: Exception, is_logged: bool, caplog):
    async def main() -> None:
        harness = Harness(batch("a"), batch("b", status=DONE, completed_at=1))
        before = await harness.shown()
        harness.store.error = error
        for _ in range(3):
            await asyncio.sleep(MAX_AGE_S)
            assert (await harness.shown()).batches[1:] == before.batches[1:]
        assert await harness.ids() == ["a", "b"]
        assert (await harness.watch.counts())[RUNNING] == 1
        harness.store.error, harness.store.stored = None, []
        await asyncio.sleep(MAX_AGE_S)
        assert await harness.ids() == []

    run_instantly(main())
    # The store itself logs that it is unavailable.
    assert bool(caplog.records) is is_logged


def test_a_store_that_does_not_answer_is_not_waited_for():
    async def main() -> None:
        harness = Harness(batch("a"))
        harness.store.delay_s = NEVER_S
        began = now()
        assert await harness.ids() == []
        assert now() - began <= 2 * WAIT_S + 0.01
        assert harness.store.reads == ["unfinished", "me"]
        harness.watch.stop()
        assert await harness.ids() == []
        assert len(harness.store.reads) == 2, "nothing is read once it is stopped"

    run_instantly(main())


def test_the_speed_and_the_time_left_follow_the_last_seconds():
    async def main() -> None:
        harness = Harness(batch("a"))
        (shown,) = (await harness.shown()).batches
        assert (shown.lines_per_s, shown.left_s) == (None, None)
        for answered in (20, 40):
            await asyncio.sleep(2)
            harness.live["a"] = batch("a", completed=answered - 4, failed=4)
            (shown,) = (await harness.shown()).batches
        assert (shown.completed, shown.failed) == (36, 4)
        assert shown.lines_per_s == pytest.approx(10)
        assert shown.left_s == pytest.approx(6)
        await asyncio.sleep(WINDOW_S - 5)
        (shown,) = (await harness.shown()).batches
        assert shown.lines_per_s == pytest.approx(40 / (WINDOW_S - 1))
        await asyncio.sleep(WINDOW_S - 5)
        (shown,) = (await harness.shown()).batches
        assert (shown.lines_per_s, shown.left_s) == (0, None)

    run_instantly(main())


def test_a_speed_is_of_the_last_seconds_alone_and_is_forgotten():
    rates = LineRates()
    assert rates.rate("a", 0, 0.0) is None
    assert rates.rate("a", 1000, 1000.0) is None, "what happened long ago is not the speed now"
    assert rates.rate("a", 1500, 1010.0) == 50
    assert rates.rate("a", 1400, 1012.0) == pytest.approx(400 / 12)
    assert rates.rate("b", 5, 1012.0) is None
    rates.keep({"b"})
    assert rates.rate("a", 2000, 1013.0) is None


def test_a_batch_that_does_not_run_has_no_speed():
    async def main() -> None:
        harness = Harness(batch("a", status=BatchStatus.CANCELLING, completed=1))
        for _ in range(3):
            (shown,) = (await harness.shown()).batches
            assert (shown.lines_per_s, shown.left_s) == (None, None)
            await asyncio.sleep(2)

    run_instantly(main())


# Over HTTP


async def status(api: Api, key: str = FIRST) -> dict[str, Any]:
    answer = await api.http.get("/status", headers={"authorization": f"Bearer {key}"})
    assert answer.status_code == 200
    return answer.json()


async def shown_ids(api: BatchesApi, key: str = FIRST) -> list[str]:
    return [each["id"] for each in (await status(api, key))["batches"]["batches"]]


async def test_the_status_shows_the_batches_of_the_key_that_asks(tmp_path):
    async with batches_serving(tmp_path, KEYS | {"METRICS": "true"}, key=FIRST) as api:
        api.embedder.delay_s = NEVER_S
        begun = await api.begin(lines(7))
        await api.reached(begun, "in_progress")

        async def is_shown() -> bool:
            return [each["status"] for each in (await status(api))["batches"]["batches"]] == ["in_progress"]

        await eventually_true(is_shown)
        (shown,) = (await status(api))["batches"]["batches"]
        assert shown["id"] == begun.id
        assert (shown["endpoint"], shown["model"]) == ("/v1/embeddings", "fake-embed")
        assert (shown["total"], shown["completed"], shown["failed"]) == (7, 0, 0)
        assert (shown["created"], shown["expires"], shown["ended"]) == (begun.created_at, begun.expires_at, None)
        others = (await status(api, SECOND))["batches"]
        assert others == {"batches": [], "unfinished": 0, "unfinished_of_all": 1}
        assert (await api.http.get("/status")).status_code == 401
        text = (await api.http.get("/metrics", headers={"authorization": f"Bearer {SECOND}"})).text
        assert 'memoria_batches_unfinished{status="in_progress"} 1.0' in text
        assert 'memoria_batches_unfinished{status="cancelling"} 0.0' in text
        assert begun.id not in text


async def test_the_metrics_count_lines(tmp_path):
    async with batches_serving(tmp_path, {"METRICS": "true"}) as api:
        done = await api.run(lines(5))
        assert done.request_counts.completed == 5
        wrong = [each | {"custom_id": f"long-{n}"} for n, each in enumerate(lines(2, input="x" * 2000))]
        failed = await api.run(wrong)
        assert failed.request_counts.failed == 2
        text = (await api.http.get("/metrics")).text
        assert 'memoria_batches_lines_total{result="completed"} 5.0' in text
        assert 'memoria_batches_lines_total{result="failed"} 2.0' in text


async def test_a_database_outage_does_not_break_the_status(tmp_path):
    async with batches_serving(tmp_path, {"METRICS": "true"}) as api:
        await api.run(lines(3))

        async def is_shown() -> bool:
            return len(await shown_ids(api)) == 1

        await eventually_true(is_shown)
        failures = 0

        async def fail(*_: Any, **__: Any) -> None:
            nonlocal failures
            failures += 1
            raise StateUnavailableError

        store = api.app.batches._resources.batches
        store.unfinished_batches = store.batches = fail
        watch = api.app.batches.watch
        watch._unfinished._read = fail
        watch._unfinished.tried_at = float("-inf")
        assert len(await shown_ids(api)) == 1
        await eventually(lambda: failures >= 1)
        assert (await api.http.get("/metrics")).status_code == 200


@pytest.mark.parametrize("off", [{"BATCHES": "off"}, {"STATE": "off"}])
async def test_without_batches_nothing_is_shown(tmp_path, off):
    settings = {"STATE": "on", "MEMORIA_DATA_DIR": str(tmp_path), "METRICS": "true"} | off
    async with serving(Api(settings=settings)) as api:
        assert (await status(api))["batches"] is None
        assert "memoria_batch" not in (await api.http.get("/metrics")).text
