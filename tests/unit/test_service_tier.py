"""`service_tier`, and the class of service that a request gets."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from app.http.requests import SERVICE_CLASS
from domain.service_class import ServiceClass
from tests.unit.responses_serving import ResponsesApi, events_of, response_of, stored_serving
from tests.unit.serving import ALL_BODIES, CHAT, EMBED, MESSAGES, Leaving, chunks_of
from tests.unit.waiting import until

INTERACTIVE, FLEX, BATCH = ServiceClass
OTHER_TIERS = ["auto", "default", "priority", None]
RESPONSES, COMPACT = "/v1/responses", "/v1/responses/compact"


@pytest.fixture(scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[ResponsesApi, None]:
    folder: Path = tmp_path_factory.mktemp("state")
    async with stored_serving(folder) as running:
        yield running


@pytest.fixture
def api(shared: ResponsesApi) -> ResponsesApi:
    shared.writer.last_context = shared.embedder.last_context = None
    return shared


def class_of(api: ResponsesApi) -> ServiceClass:
    context = api.writer.last_context or api.embedder.last_context
    assert context is not None
    return context.service_class


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("path", [CHAT, RESPONSES])
async def test_the_flex_tier_gives_way(api, path, is_streamed):
    answer = await api.post(path, service_tier="flex", stream=is_streamed)
    assert answer.status_code == 200
    assert class_of(api) is FLEX


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("path", [CHAT, RESPONSES])
@pytest.mark.parametrize("tier", OTHER_TIERS)
async def test_all_other_tiers_are_interactive(api, path, tier, is_streamed):
    answer = await api.post(path, service_tier=tier, stream=is_streamed)
    assert answer.status_code == 200
    assert class_of(api) is INTERACTIVE


async def test_a_compaction_may_give_way_too(api):
    assert (await api.post(COMPACT, service_tier="flex")).status_code == 200
    assert class_of(api) is FLEX


async def test_a_background_response_keeps_its_class(api):
    answer = await api.post(RESPONSES, service_tier="flex", background=True)
    assert answer.status_code == 200
    await until(lambda: api.writer.last_context is not None)
    assert class_of(api) is FLEX


@pytest.mark.parametrize("tier", ["auto", "standard_only"])
async def test_tiers_of_the_messages_api_are_interactive(api, tier):
    assert (await api.post(MESSAGES, service_tier=tier)).status_code == 200
    assert class_of(api) is INTERACTIVE


async def test_chat_completions_report_the_flex_tier_alone(api):
    assert (await api.chat(service_tier="flex")).json()["service_tier"] == "flex"
    chunks = chunks_of(await api.chat(service_tier="flex", stream=True))
    assert {chunk["service_tier"] for chunk in chunks} == {"flex"}
    for tier in OTHER_TIERS:
        assert "service_tier" not in (await api.chat(service_tier=tier)).json()


async def test_responses_report_the_tier(api):
    assert response_of(await api.respond(service_tier="flex"))["service_tier"] == "flex"
    last = events_of(await api.respond(service_tier="flex", stream=True))[-1]
    assert last["response"]["service_tier"] == "flex"
    for tier in OTHER_TIERS:
        assert response_of(await api.respond(service_tier=tier))["service_tier"] == "default"


@pytest.mark.parametrize("path", [CHAT, EMBED, RESPONSES])
async def test_a_class_in_the_state_of_the_request_wins(api, path):
    body = ALL_BODIES[path] | ({} if path == EMBED else {"service_tier": "flex"})
    await Leaving(body).call(api.app, path, **{SERVICE_CLASS: BATCH})
    assert class_of(api) is BATCH
