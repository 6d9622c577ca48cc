"""Batches as OpenAI's SDK uses them."""

import json

import openai
import pytest
from openai.types import Batch

from tests.unit.batches.serving import BATCHES, EMBED_BODY, batches_serving, eventually_true, jsonl, line, lines
from tests.unit.serving import BODIES, CHAT, COMPLETE, EMBED, NEVER_S, Api, error_of, serving

RESPONSES = "/v1/responses"
KEYS = {"API_KEYS": "sk-first-0123456789,sk-second-0123456789"}


@pytest.fixture
async def api(tmp_path):
    async with batches_serving(tmp_path) as running:
        yield running


async def test_a_batch_is_created_run_and_downloaded(api):
    begun = await api.begin(lines(30), metadata={"corpus": "one"})
    assert (begun.status, begun.object, begun.endpoint, begun.metadata) == (
        "validating",
        "batch",
        EMBED,
        {"corpus": "one"},
    )
    assert begun.expires_at == begun.created_at + 24 * 3600
    done = await api.ended(begun)
    assert done.status == "completed", done
    assert (done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == (30, 30, 0)
    assert done.created_at <= done.in_progress_at <= done.finalizing_at <= done.completed_at
    assert (done.model, done.errors, done.error_file_id) == ("fake-embed", None, None)
    assert (done.usage.input_tokens, done.usage.total_tokens) == (120, 120)
    output, _ = await api.results(done)
    assert set(output) == {f"line-{number}" for number in range(30)}
    assert output["line-0"]["response"]["status_code"] == 200
    assert output["line-0"]["response"]["request_id"].startswith("req_")
    same = await api.http.post(EMBED, json=EMBED_BODY)
    assert output["line-0"]["response"]["body"] == same.json()
    file = await api.client.files.retrieve(done.output_file_id)
    assert (file.purpose, file.filename) == ("batch_output", f"{done.id}_output.jsonl")
    assert len(api.kept()) == 2, "the parts are gone"


async def test_batches_of_all_endpoints(api):
    for endpoint, body, kind in (
        (COMPLETE, BODIES[COMPLETE], "text_completion"),
        (CHAT, BODIES[CHAT], "chat.completion"),
        (RESPONSES, {"model": "fake-write", "input": "text"}, "response"),
    ):
        done = await api.run([line("a", body, url=endpoint), line("b", body, url=endpoint)], endpoint=endpoint)
        assert (done.status, done.request_counts.completed) == ("completed", 2)
        assert done.usage.output_tokens > 0
        output, _ = await api.results(done)
        answer = output["a"]["response"]["body"]
        assert answer["object"] == kind
        if endpoint == RESPONSES:
            stored = await api.http.get(f"{RESPONSES}/{answer['id']}")
            assert stored.json() == answer


async def test_failed_lines_are_in_the_error_file(api):
    bodies = {"good": EMBED_BODY, "long": EMBED_BODY | {"input": "x" * 300}, "empty": EMBED_BODY | {"input": ""}}
    done = await api.run([line(name, body) for name, body in bodies.items()])
    assert (done.status, done.request_counts.completed, done.request_counts.failed) == ("completed", 1, 2)
    output, errors = await api.results(done)
    assert set(output) == {"good"}
    assert set(errors) == {"long", "empty"}
    assert errors["long"]["response"]["status_code"] == 400
    assert errors["long"]["response"]["body"]["error"]["code"] == "context_length_exceeded"
    assert errors["long"]["error"] is None


async def test_invalid_lines_fail_the_batch_before_anything_runs(api):
    bad = [
        line("a"),
        line("a"),
        line("c", url=CHAT),
        line("d", EMBED_BODY | {"model": "gone"}),
        line("e", {"x": 1}),
    ]
    done = await api.run(jsonl(bad) + b"nonsense\n")
    assert (done.status, done.output_file_id, done.error_file_id) == ("failed", None, None)
    assert done.failed_at is not None
    assert [(error.line, error.code, error.param) for error in done.errors.data] == [
        (2, "duplicate_custom_id", "custom_id"),
        (3, "invalid_url", "url"),
        (4, "model_not_found", "body.model"),
        (5, "unknown_parameter", "body.x"),
        (6, "invalid_json_line", None),
    ]
    assert not [request for request in api.embedder.seen if request.inputs == ["text"]]


async def test_invalid_lines_can_be_skipped(tmp_path):
    async with batches_serving(tmp_path, {"BATCH_ON_INVALID_LINE": "skip"}) as api:
        bad = [line("a"), line("a"), line("b", EMBED_BODY | {"model": "gone"}), line("c")]
        file = await api.begin(jsonl(bad) + b"nonsense\n")
        done = await api.ended(file)
        assert (done.status, done.request_counts.total, done.request_counts.failed) == ("completed", 5, 3)
        output = await api.records(done.output_file_id)
        assert set(output) == {"a", "c"}
        content = (await api.client.files.content(done.error_file_id)).text
        errors = [json.loads(each) for each in content.splitlines()]
        assert [(each["custom_id"], each["error"]["code"], each["error"]["line"]) for each in errors] == [
            ("a", "duplicate_custom_id", 2),
            ("b", "model_not_found", 3),
            (None, "invalid_json_line", 5),
        ]


async def test_files_that_are_no_lines_of_json(api):
    for content, code in (
        (b"\n\r\n \n", "empty_file"),
        (b'{"custom_id":"x' + b"y" * 3_000_000 + b'"}', "line_too_long"),
        ("".encode("utf-16") + json.dumps(line("a")).encode("utf-16-le"), "invalid_json_line"),
    ):
        done = await api.run(content)
        assert (done.status, done.errors.data[0].code) == ("failed", code)


async def test_marks_and_line_ends_of_windows_are_accepted(api):
    content = b"\xef\xbb\xbf" + jsonl(lines(3)).replace(b"\n", b"\r\n") + b"\r\n\r\n"
    done = await api.run(content)
    assert (done.status, done.request_counts.total) == ("completed", 3)


async def test_a_file_may_have_so_many_lines(tmp_path):
    async with batches_serving(tmp_path, {"BATCH_MAX_LINES": "3"}) as api:
        assert (await api.run(lines(3))).status == "completed"
        done = await api.run(lines(4))
        assert (done.status, done.errors.data[0].code) == ("failed", "too_many_lines")


async def test_a_batch_is_cancelled(api):
    api.embedder.delay_s = NEVER_S
    begun = await api.begin(lines(5))
    await eventually_true(lambda: is_true(api.embedder.running == 5))
    cancelled = await api.client.batches.cancel(begun.id)
    assert (cancelled.status, cancelled.cancelling_at is not None) == ("cancelling", True)
    done = await api.ended(cancelled)
    assert (done.status, done.cancelled_at is not None, done.completed_at) == ("cancelled", True, None)
    assert api.embedder.running == 0
    output, errors = await api.results(done)
    assert output == {}
    assert {record["error"]["code"] for record in errors.values()} == {"batch_cancelled"}
    assert len(errors) == done.request_counts.failed == 5
    assert (await api.client.batches.cancel(begun.id)).status == "cancelled"


async def is_true(value: bool) -> bool:
    return value


async def test_what_was_answered_before_a_cancel_is_kept(api):
    api.embedder.delay_s = 0.0
    mixed = [line("quick"), *(line(f"slow-{n}", EMBED_BODY | {"input": f"slow {n}"}) for n in range(3))]
    original = api.embedder._embed

    async def embed(request):
        if request.inputs[0].startswith("slow"):
            api.embedder.delay_s = NEVER_S
        return await original(request)

    api.embedder._embed = embed
    begun = await api.begin(mixed)

    async def has_one() -> bool:
        return (await api.client.batches.retrieve(begun.id)).request_counts.completed == 1

    await eventually_true(has_one)
    await api.client.batches.cancel(begun.id)
    done = await api.ended(begun)
    output, errors = await api.results(done)
    assert (set(output), set(errors)) == ({"quick"}, {"slow-0", "slow-1", "slow-2"})


async def test_a_batch_that_has_ended_is_not_cancelled(api):
    done = await api.run(lines(1))
    with pytest.raises(openai.BadRequestError, match="status 'completed'"):
        await api.client.batches.cancel(done.id)


async def test_batches_are_listed_newest_first(api):
    ids = [(await api.begin(lines(1))).id for _ in range(5)]
    for batch_id in ids:
        await api.ended(await api.client.batches.retrieve(batch_id))
    page = await api.client.batches.list(limit=2)
    assert [batch.id for batch in page.data] == ids[:2:-1]
    assert page.has_more
    assert [batch.id async for batch in page] == ids[::-1]
    rest = await api.client.batches.list(after=ids[1], limit=100)
    assert ([batch.id for batch in rest.data], rest.has_more) == ([ids[0]], False)
    with pytest.raises(openai.NotFoundError):
        await api.client.batches.list(after="batch_none")
    for limit in ("0", "101", "x"):
        assert (await api.http.get(BATCHES, params={"limit": limit})).status_code == 400


BAD = (
    ({"endpoint": "/v1/messages"}, "endpoint"),
    ({"endpoint": "v1/embeddings"}, "endpoint"),
    ({"completion_window": "24"}, "completion_window"),
    ({"completion_window": "0h"}, "completion_window"),
    ({"completion_window": "721h"}, "completion_window"),
    ({"completion_window": "31d"}, "completion_window"),
    ({"metadata": {"x": 5}}, "metadata[...]"),
    ({"metadata": {"x" * 65: "y"}}, "metadata"),
    ({"output_expires_after": {"anchor": "created_at", "seconds": 5}}, "output_expires_after.seconds"),
    ({"output_expires_after": {"anchor": "now", "seconds": 3600}}, "output_expires_after.anchor"),
    ({"unknown": 1}, "unknown"),
)


async def test_bad_parameters_are_named(api):
    valid = {"input_file_id": await api.upload_lines(lines(1)), "endpoint": EMBED, "completion_window": "24h"}
    for changes, param in BAD:
        answer = await api.http.post(BATCHES, json=valid | changes)
        assert answer.status_code == 400, answer.text
        assert error_of(answer)["param"] == param


async def test_other_windows_are_accepted(api):
    for window, hours in (("1h", 1), ("720h", 720), ("30d", 720)):
        begun = await api.begin(lines(1), completion_window=window)
        assert begun.expires_at == begun.created_at + hours * 3600


async def test_output_files_expire_as_asked(api):
    done = await api.run(lines(1), output_expires_after={"anchor": "created_at", "seconds": 3600})
    file = await api.client.files.retrieve(done.output_file_id)
    assert file.expires_at == file.created_at + 3600
    done = await api.run(lines(1))
    file = await api.client.files.retrieve(done.output_file_id)
    assert file.expires_at == file.created_at + 30 * 24 * 3600


async def test_the_input_has_to_be_an_input_file(api):
    with pytest.raises(openai.NotFoundError, match="file-none"):
        await api.client.batches.create(input_file_id="file-none", endpoint=EMBED, completion_window="24h")
    done = await api.run(lines(1))
    with pytest.raises(openai.BadRequestError, match="batch_output"):
        await api.client.batches.create(input_file_id=done.output_file_id, endpoint=EMBED, completion_window="24h")


async def test_each_key_has_its_own_batches(tmp_path):
    async with batches_serving(tmp_path, KEYS, key="sk-first-0123456789") as api:
        done = await api.run(lines(2))
        async with api.openai("sk-second-0123456789") as other:
            assert [batch.id async for batch in await other.batches.list()] == []
            for request in (other.batches.retrieve(done.id), other.batches.cancel(done.id)):
                with pytest.raises(openai.NotFoundError):
                    await request
            with pytest.raises(openai.NotFoundError):
                await other.batches.create(
                    input_file_id=done.input_file_id, endpoint=EMBED, completion_window="24h"
                )
            with pytest.raises(openai.NotFoundError):
                await other.files.content(done.output_file_id)
        assert (await api.http.get(BATCHES)).status_code == 401
        output, _ = await api.results(done)
        assert set(output) == {"line-0", "line-1"}


async def test_a_key_has_so_many_batches_at_a_time(tmp_path):
    settings = KEYS | {"BATCH_MAX_UNFINISHED": "2"}
    async with batches_serving(tmp_path, settings, key="sk-first-0123456789") as api:
        api.embedder.delay_s = NEVER_S
        first, _ = await api.begin(lines(1)), await api.begin(lines(1))
        with pytest.raises(openai.RateLimitError, match="BATCH_MAX_UNFINISHED") as raised:
            await api.begin(lines(1))
        assert raised.value.code == "batch_limit_exceeded"
        assert raised.value.response.headers["x-should-retry"] == "false"
        async with api.openai("sk-second-0123456789") as other:
            file_id = await api.upload_lines(lines(1), other)
            await other.batches.create(input_file_id=file_id, endpoint=EMBED, completion_window="24h")
        await api.client.batches.cancel(first.id)
        await api.ended(first)
        await api.begin(lines(1))


@pytest.mark.parametrize("name", ["STATE", "BATCHES"])
async def test_without_batches_the_setting_is_named(tmp_path, name: str):
    settings = {"STATE": "on", "MEMORIA_DATA_DIR": str(tmp_path), name: "off"}
    async with serving(Api(settings=settings)) as api:
        body = {"input_file_id": "file-x", "endpoint": EMBED, "completion_window": "24h"}
        answer = await api.http.post(BATCHES, json=body)
        assert answer.status_code == 400
        assert f"{name}=on" in error_of(answer)["message"]
        gone = await api.http.get(f"{BATCHES}/batch_x")
        assert (gone.status_code, f"{name}=on" in error_of(gone)["message"]) == (404, True)
        assert (await api.http.get(BATCHES)).json()["data"] == []


async def test_every_shape_is_that_of_the_sdk(api):
    done = await api.run([line("a"), line("b", EMBED_BODY | {"input": ""})])
    raw = (await api.http.get(f"{BATCHES}/{done.id}")).json()
    assert set(raw) == set(Batch.model_fields)
    assert set(raw["usage"]) == set(Batch.model_fields["usage"].annotation.__args__[0].model_fields)
