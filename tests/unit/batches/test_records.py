"""The lines of output and error files, written and read again."""

import json

import pytest

from app.batches import records
from app.batches.execution import LineAnswer
from app.batches.records import EXPIRED, Records, read_record, usage_of
from domain.batches import TokenUsage

RECORDS = Records("batch_" + "ab" * 16)
BODY = b'{"object":"list","data":[1.50,"\xc3\xbc"],"usage":{"prompt_tokens":3,"total_tokens":3}}'


def test_an_answer_is_kept_to_the_byte():
    record = RECORDS.answer(12, "my id", LineAnswer(200, "req_1", BODY))
    assert record.endswith(b"\n")
    assert BODY in record
    assert json.loads(record) == {
        "id": f"batch_req_{'ab' * 11}000000000c",
        "custom_id": "my id",
        "response": {"status_code": 200, "request_id": "req_1", "body": json.loads(BODY)},
        "error": None,
    }


def test_a_line_that_has_not_run_has_an_error():
    read = json.loads(RECORDS.error(3, None, EXPIRED))
    assert (read["custom_id"], read["response"]) == (None, None)
    assert read["error"]["code"] == "batch_expired"


def test_a_record_is_one_line():
    record = RECORDS.answer(1, "a\nb", LineAnswer(200, "", b'{\n "a": "x\\ny"\n}\n'))
    assert record.count(b"\n") == 1
    assert json.loads(record)["response"]["body"] == {"a": "x\ny"}


def test_a_restart_reads_the_number_of_the_line_and_its_tokens():
    read = read_record(RECORDS.answer(2**32, "x", LineAnswer(200, "", BODY)))
    assert read is not None
    assert (read.number, read.usage) == (2**32, TokenUsage(input_tokens=3))
    failed = read_record(RECORDS.error(5, "x", EXPIRED))
    assert failed is not None
    assert (failed.number, failed.usage) == (5, TokenUsage())


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\0\0\0", b"{}", b'{"id": "batch_req_none"}', b'{"id": 1}', b"[]"]
)
def test_what_is_no_record_is_not_read(content: bytes):
    assert read_record(content) is None


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 3, "total_tokens": 3}, TokenUsage(input_tokens=3)),
        (
            {
                "prompt_tokens": 5,
                "completion_tokens": 7,
                "total_tokens": 12,
                "prompt_tokens_details": {"audio_tokens": 0, "cached_tokens": 2},
                "completion_tokens_details": {"reasoning_tokens": 4},
            },
            TokenUsage(input_tokens=5, cached_tokens=2, output_tokens=7, reasoning_tokens=4),
        ),
        (
            {
                "input_tokens": 5,
                "input_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 0},
                "output_tokens": 7,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": 12,
            },
            TokenUsage(input_tokens=5, cached_tokens=1, output_tokens=7),
        ),
        ({"total_tokens": 9}, TokenUsage(input_tokens=9)),
        ("unusual", TokenUsage()),
        (None, TokenUsage()),
    ],
)
def test_tokens_are_counted_in_the_shapes_of_all_endpoints(usage: object, expected: TokenUsage):
    assert usage_of(json.dumps({"usage": usage}).encode()) == expected


@pytest.mark.parametrize(
    "body",
    [
        b'{"data":[%s1],"usage":{"prompt_tokens":3,"total_tokens":3}}',
        b'{"data":[%s1],"usage":{"prompt_tokens":3},"model":"m"}',
        b'{"usage":{"prompt_tokens":3},"data":[%s1]}',
        # Those are no usage of the whole answer.
        b'{"usage":{"prompt_tokens":3},"data":[%s1,{"usage":{"prompt_tokens":9}}]}',
        b'{"usage":{"prompt_tokens":3},"data":[%s1,"\\"usage\\":{\\"prompt_tokens\\":9}}"]}',
        b'{"usage":{"prompt_tokens":3},"data":[%s1],"usage":null,"usage":{"prompt_tokens":3}}',
    ],
)
def test_tokens_of_large_answers_are_found(body: bytes):
    assert usage_of(body % (b"1," * 100_000)) == TokenUsage(input_tokens=3)


def test_large_vectors_are_not_read_to_count_tokens(monkeypatch):
    read = []

    class Decoder:
        def decode(self, body: bytes) -> object:
            read.append(len(body))
            return original.decode(body)

    original = records._bodies
    monkeypatch.setattr(records, "_bodies", Decoder())
    vectors = b'{"data":[%s1],"usage":{"prompt_tokens":3,"total_tokens":3}}' % (b"1," * 100_000)
    assert usage_of(vectors) == TokenUsage(input_tokens=3)
    assert max(read) < 100
