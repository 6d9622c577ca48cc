"""Provides services over fake engines."""

from collections.abc import Generator
from pathlib import Path

import pytest

from tests.integration.batches.services import Services


@pytest.fixture
def services(tmp_path: Path) -> Generator[Services, None, None]:
    found = Services(tmp_path)
    try:
        yield found
    finally:
        found.end()
