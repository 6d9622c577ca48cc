import asyncio
import contextlib
import json
import xml.etree.ElementTree as ElementTree
from collections.abc import AsyncGenerator

import msgspec
import pytest

from app.commands.bench import command, workloads
from app.commands.bench.arrivals import closed_loop, open_loop
from app.commands.bench.canned import CannedServer, answers
from app.commands.bench.html_report import html_report
from app.commands.bench.http_client import Answer, Connection, Target
from app.commands.bench.measure import Percentiles, measure, median_of
from app.commands.bench.results import MemorySample, Report, Row, new_report, ratio
from app.commands.bench.rounds import in_turn
from app.commands.bench.workloads import Side, Workload
from domain.errors import ConfigurationError
from domain.roles import Role

ONE_TOKEN = Workload(name="completions, 4 clients", role=Role.GENERATE, clients=4, tokens=1, requests=40)


@contextlib.asynccontextmanager
async def canned() -> AsyncGenerator[Side, None]:
    known = answers("canned")
    server = await asyncio.get_running_loop().create_server(lambda: CannedServer(known), "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield Side(name="canned", embed_url=url, gen_url=url, embed_model="canned", gen_model="canned")
    finally:
        server.close()


async def test_a_closed_loop_sends_so_many_requests_from_so_many_clients():
    async with canned() as side:
        ticks = []
        run = await closed_loop(
            Target.of(side.gen_url), ONE_TOKEN.bodies(side), clients=4, count=40, ticked=lambda: ticks.append(1)
        )
    assert len(run.answers) == len(ticks) == 40
    assert run.failures == []
    assert all(answer.status == 200 and ONE_TOKEN.is_right(answer) for answer in run.answers)
    assert all(answer.sent_at <= answer.part_times[0] <= answer.ended_at for answer in run.answers)


async def test_an_open_loop_sends_at_a_rate_whoever_waits():
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.3)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    target = Target("127.0.0.1", server.sockets[0].getsockname()[1])
    run = await open_loop(target, [target.post("/", b"", {})], rate=100, seconds=0.3)
    server.close()
    # With one waiting for the other it would be one; with 100 a second it is about 30.
    assert 12 < len(run.answers) < 60


async def test_a_server_that_hangs_up_is_a_failure():
    async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(rude, "127.0.0.1", 0)
    target = Target("127.0.0.1", server.sockets[0].getsockname()[1])
    run = await closed_loop(target, [target.post("/", b"", {})], clients=1, count=2)
    server.close()
    assert run.answers == []
    assert len(run.failures) == 2


async def test_parts_of_a_stream_have_their_own_times():
    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(3):
            writer.write(b"2\r\nab\r\n")
            await writer.drain()
            await asyncio.sleep(0.02)
        writer.write(b"0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(slow, "127.0.0.1", 0)
    target = Target("127.0.0.1", server.sockets[0].getsockname()[1])
    connection = await Connection.connect(target)
    answer = await connection.ask(target.post("/", b"", {}))
    connection.close()
    server.close()
    assert answer.body == b"ababab"
    assert len(answer.part_times) == 3
    assert answer.part_times[2] - answer.part_times[0] > 0.03


@pytest.mark.parametrize(
    ("load", "status", "body", "is_right"),
    [
        (workloads.EMBEDDINGS, 200, b'{"data":[{"embedding":"AAAA"}]}', True),
        (workloads.EMBEDDINGS, 500, b'{"data":[{"embedding":"AAAA"}]}', False),
        (workloads.EMBEDDINGS, 200, b'{"data":[]}', False),
        (workloads.COMPLETIONS, 200, b'{"usage":{"completion_tokens": 1}}', True),
        (workloads.COMPLETIONS, 200, b'{"usage":{"completion_tokens": 2}}', False),
        (workloads.STREAMS, 200, b'data: {"usage":{"completion_tokens":128}}\n\ndata: [DONE]\n\n', True),
        (workloads.STREAMS, 200, b'data: {"usage":{"completion_tokens":128}}\n\n', False),
        (workloads.STREAMS, 200, b"data: [DONE]\n\n", False),
    ],
)
def test_only_what_was_asked_for_counts(load, status, body, is_right):
    assert load.is_right(Answer(sent_at=0.0, status=status, body=body)) is is_right


async def test_a_round_is_summed_up():
    async with canned() as side:
        found = await measure(ONE_TOKEN, side, seconds=1)
        wrong = await measure(msgspec.structs.replace(ONE_TOKEN, tokens=2), side, seconds=1)
    assert (found.requests, found.failed) == (40, 0)
    assert found.requests_per_s == pytest.approx(40 / found.duration_s)
    assert found.tokens_per_s == pytest.approx(found.requests_per_s)
    assert found.latency_ms.p50 <= found.latency_ms.p95 <= found.latency_ms.p99
    assert (wrong.requests, wrong.failed) == (0, 40)


def test_percentiles_are_in_milliseconds():
    found = Percentiles.of([number / 1000 for number in range(1, 101)])
    assert (found.p50, found.p95, found.p99) == pytest.approx((51, 96, 100))
    assert Percentiles.of([]) is None
    assert median_of([None, 3.0, 1.0, 2.0]) == 2.0
    assert median_of([None]) is None


FACTS = {"workload": "w", "figure": "f", "side": "a", "against": "b"}


def test_a_ratio_is_the_median_of_the_rounds_own_ratios():
    found = ratio([2, 30, 4], [1, 10, 1], **FACTS, goal=3, direction="at least")
    assert (found.ratio, found.lowest, found.highest) == (3, 2, 4)
    assert found.is_reached
    assert not ratio([2], [1], **FACTS, goal=1.9, direction="at most").is_reached
    assert not ratio([None], [1], **FACTS, goal=0, direction="at least").is_reached


def test_every_other_round_begins_with_the_other_side():
    assert [in_turn(["a", "b"], number) for number in range(3)] == [["a", "b"], ["b", "a"], ["a", "b"]]


def test_the_number_of_clients_is_part_of_a_workloads_name():
    assert workloads.EMBEDDINGS_1.name == "embeddings, 1 client"
    assert workloads.STREAMS.with_clients(4).name == "streams of 128 tokens, 4 clients"


async def full_report() -> Report:
    report = new_report("A <report>", "memoria bench")
    async with canned() as side:
        for clients in (1, 4):
            load = msgspec.structs.replace(ONE_TOKEN.with_clients(clients), requests=8)
            report.measurements.append(await measure(load, side, seconds=1))
    report.ratios.append(ratio([1.0], [2.0], **FACTS, goal=1, direction="at most"))
    report.rows.append(Row(what="w & v", found="1", wanted="2", is_met=False))
    report.memory += [
        MemorySample(at_s=at_s, resident_mib=100 + at_s, open_files=9, tasks=None) for at_s in (0.0, 60.0)
    ]
    return report


async def test_the_page_holds_everything_and_loads_nothing():
    page = html_report(await full_report())
    assert page.count("<svg") == 4
    assert "<script" not in page
    for away in ("src=", "@import", "<link"):
        assert away not in page
    assert "A &lt;report&gt;" in page
    assert "w &amp; v" in page
    assert "not met" in page
    for chart in page.split("<figure>")[1:]:
        ElementTree.fromstring(chart.partition("</figure>")[0])


async def test_the_file_can_be_read_back():
    report = await full_report()
    written = msgspec.json.encode(report)
    assert msgspec.json.decode(written, type=Report) == report
    assert json.loads(written)["machine"]["cores"] > 0


def test_a_server_that_goes_away_is_said_in_a_sentence(monkeypatch, tmp_path):
    async def gone(*_arguments: object) -> None:
        raise ConnectionRefusedError("Connection refused")

    monkeypatch.setattr(command, "_measured", gone)
    options = command.BenchOptions(
        url="http://127.0.0.1:9",
        compare=False,
        telemetry=False,
        responses=False,
        batches=False,
        vllm_flags="",
        soak_minutes=None,
        rate=None,
        rounds=1,
        seconds=1.0,
        output=tmp_path,
    )
    with pytest.raises(ConfigurationError, match="gone"):
        command.run(options, cache=tmp_path, progress=lambda _step, _share: None)
