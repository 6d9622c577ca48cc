import gc
import logging
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.unit.serving import Api, serving
from tests.unit.waiting import until

HERE = Path(__file__).parent
# For `make unit`. Without it hypothesis tries a property with 100 examples unless the test says otherwise.
settings.register_profile("quick", max_examples=25)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Turn warnings into errors: no engine library is loaded here, so every warning is the project's own."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("error"))


def pytest_collection_finish() -> None:
    """Exclude objects that live for the whole run from garbage collection, as the service does once it serves."""
    gc.freeze()


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    """Undo what a test does to the log of this process."""
    before = {logger: (logger.handlers, logger.propagate, logger.level) for logger in _loggers()}
    yield
    logging.captureWarnings(False)
    for logger in _loggers():
        # Those that the test has created become as new.
        logger.handlers, logger.propagate, level = before.get(logger, ([], True, logging.NOTSET))
        logger.setLevel(level)


def _loggers() -> list[logging.Logger]:
    known = logging.root.manager.loggerDict.values()
    return [logging.root, *(logger for logger in known if isinstance(logger, logging.Logger))]


@pytest.fixture(scope="session")
async def shared_api() -> AsyncGenerator[Api, None]:
    # Building an application takes longer than most tests.
    async with serving(Api()) as running:
        yield running


@pytest.fixture(scope="session")
async def shared_lenient_api() -> AsyncGenerator[Api, None]:
    async with serving(Api(allow_unknown_fields=True)) as running:
        yield running


@pytest.fixture
async def api(shared_api) -> Api:
    """A ready, idle service."""
    return await idle(shared_api)


@pytest.fixture
async def lenient_api(shared_lenient_api) -> Api:
    """A service that ignores unknown fields."""
    return await idle(shared_lenient_api)


@pytest.fixture(scope="session")
async def shared_strict_api() -> AsyncGenerator[Api, None]:
    async with serving(Api(settings={"STRICT_TOOLS": "true"})) as running:
        yield running


@pytest.fixture
async def strict_api(shared_strict_api) -> Api:
    """A service that ignores nothing in requests to Anthropic's API."""
    return await idle(shared_strict_api)


async def idle(api: Api) -> Api:
    for engine in (api.embedder, api.writer):
        engine.delay_s, engine.fail_next = 0.0, None
        assert engine.running == 0
    await until(lambda: api.is_ready)
    return api
