"""What a request must not make the service do: fetch, run templates or code, read files, nest without end."""

import pytest

from tests.unit.serving import BODIES, CHAT, COMPLETE, EMBED, TOKENIZE, error_of

FOREIGN = "http://127.0.0.1:9/secret"
PARTS = [
    {"type": "image_url", "image_url": {"url": FOREIGN}},
    {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
    {"type": "audio_url", "audio_url": {"url": FOREIGN}},
    {"type": "video_url", "video_url": {"url": FOREIGN}},
    {"type": "file", "file": {"file_data": FOREIGN}},
]


@pytest.mark.parametrize("part", PARTS, ids=[part["type"] for part in PARTS])
@pytest.mark.parametrize("path", [CHAT, TOKENIZE])
async def test_nothing_is_fetched_for_a_request(api, path, part):
    body = {"model": "fake-write", "messages": [{"role": "user", "content": [part]}]}
    response = await api.http.post(path, json=body)
    assert response.status_code == 400
    assert error_of(response)["type"] == "invalid_request_error"
    assert FOREIGN not in response.text


@pytest.mark.parametrize(
    "more",
    [
        {"chat_template": "{{ 7 * 7 }}"},
        {"trust_remote_code": True},
        {"mm_processor_kwargs": {}},
        {"media_io_kwargs": {}},
        {"lora_request": "/etc"},
        {"prompt_embeds": "x"},
    ],
)
@pytest.mark.parametrize("path", BODIES)
async def test_no_field_brings_a_template_or_code(api, path, more):
    response = await api.http.post(path, json=BODIES[path] | more)
    assert response.status_code == 400
    error = error_of(response)
    assert (error["code"], error["param"]) == ("unknown_parameter", next(iter(more)))


@pytest.mark.parametrize("path", [CHAT, TOKENIZE])
async def test_template_arguments_bring_no_template(api, path):
    body = {
        "model": "fake-write",
        "messages": [{"role": "user", "content": "hi"}],
        "chat_template_kwargs": {"chat_template": "{{ 7 * 7 }}"},
    }
    response = await api.http.post(path, json=body)
    assert response.status_code == 400
    assert error_of(response)["param"] == "chat_template_kwargs.chat_template"


@pytest.mark.parametrize("path", [CHAT, COMPLETE, EMBED, TOKENIZE])
@pytest.mark.parametrize("opening", ["[", '{"a":'])
async def test_json_that_nests_without_end_is_refused(api, path, opening):
    response = await api.http.post(path, content='{"model":"x","input":' + opening * 700)
    assert response.status_code == 400
    assert error_of(response)["type"] == "invalid_request_error"
