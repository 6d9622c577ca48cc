"""The number of generators that a streamed token passes between the engine and the socket."""

import inspect
import sys

import pytest

from tests.fakes import FakeBackend
from tests.unit.serving import Api, serving
from tests.unit.waiting import until

MAX_GENERATORS = 5
OBSERVED = {"METRICS": "true", "REQUEST_LOG": "true", "HISTORY": "true"}


class TracedBackend(FakeBackend):
    """Records which generators are resumed for each delta, from the engine outwards."""

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        self.paths: list[list[str]] = []

    async def _raise_failure(self) -> None:
        await super()._raise_failure()
        path, frame = [], sys._getframe()
        while frame is not None:
            if frame.f_code.co_flags & inspect.CO_ASYNC_GENERATOR:
                path.append(frame.f_code.co_name)
            frame = frame.f_back
        self.paths.append(path)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({}, ["_generate"]), (OBSERVED, ["_generate", "_recorded"])],
    ids=["unobserved", "metrics, log and history"],
)
async def test_a_token_passes_the_engines_generator_and_one_more_if_it_is_observed(settings, expected):
    api = Api(settings=settings)
    api.writer.__class__ = TracedBackend
    api.writer.paths = []
    async with serving(api):
        await until(lambda: api.is_ready)
        api.writer.paths.clear()
        response = await api.chat(stream=True, max_tokens=6)
        assert response.text.endswith("data: [DONE]\n\n")
    # The first delta is awaited before the stream is returned.
    _first, *paths = api.writer.paths
    assert paths
    assert all(path == expected for path in paths)
    assert len(expected) <= MAX_GENERATORS
