"""What can be known of a model without loading it: from a folder, a package's description, or the hub."""

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
from domain.model_facts import ModelFacts, Origin
from domain.progress import ignore_progress
from domain.roles import ROLES

# A package is on the disk while it is unpacked and converted to 16-bit weights: 93 + 93 + 269 MB for the largest.
PACKAGE_ROOM = 5
WEIGHTS = (".safetensors", ".bin", ".pt")
CONSOLIDATED = "consolidated*.safetensors"
SMALL_FILES = ("tokenizer_config.json", "chat_template.jinja", "modules.json")


def inspect_model(name: str, *, setting: str, cache: Path) -> ModelFacts:
    """Look at a model. Of a model on the hub that is not here, only its small files are fetched.

    Args:
        name: as in a setting.
        setting: the variable, for errors.
        cache: folder of prepared models.

    Raises:
        ConfigurationError: there is no such model; the message names the setting and what to do.
    """
    if name in PACKAGED_MODELS:
        return _package(name, cache / "models", setting)
    if name.count("/") == 1 and not name.startswith((".", "/", "~")) and not Path(name).is_dir():
        return _hub(name, setting, cache)
    found = _located(name, setting, cache)
    return _folder(found.name, Path(found.source), setting)


def _located(name: str, setting: str, cache: Path) -> LocatedModel:
    return locate(name, setting=setting, cache=cache, progress=ignore_progress)


def _package(name: str, cache: Path, setting: str) -> ModelFacts:
    model = PACKAGED_MODELS[name]
    folder = cache / model.folder_name
    if folder.is_dir():
        files = _files(folder)
        return msgspec.structs.replace(
            _described(name, files, _weight_bytes_of(files), setting=setting, origin="package"),
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
        fetch_bytes=model.wheel_bytes * PACKAGE_ROOM,
        fetch_into=cache,
    )


def _folder(name: str, folder: Path, setting: str) -> ModelFacts:
    files = _files(folder)
    described = _described(name, files, _weight_bytes_of(files), setting=setting, origin="folder")
    return msgspec.structs.replace(described, source=str(folder))


def _hub(name: str, setting: str, cache: Path) -> ModelFacts:
    try:
        from huggingface_hub import constants, try_to_load_from_cache
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError:
        _located(name, setting, cache)  # says what is missing
        raise

    try:
        sizes = _sizes_on_hub(name)
    except (HfHubHTTPError, HFValidationError):
        # Says why, unless what is in the cache will do.
        _located(name, setting, cache)
        sizes = None
    if sizes is None and not isinstance(try_to_load_from_cache(name, "config.json"), str):
        # Not asked for as a start does it, which tries for half a minute.
        raise ConfigurationError(
            f"{setting}: '{name}' is not in the model cache of this machine, and the hub can't be reached. "
            "Connect the machine (HF_ENDPOINT names a mirror), or set the name to a local folder."
        )
    if sizes is not None:
        _located(name, setting, cache)
        for file in SMALL_FILES:
            if file in sizes:
                _fetch(name, file)
    wanted = _wanted(sizes) if sizes is not None else _wanted_by_index(name)
    files: dict[str, Path] = {}
    for file in {*wanted, *SMALL_FILES, "config.json"}:
        path = try_to_load_from_cache(name, file)
        if isinstance(path, str):
            files[file] = Path(path)
    missing = [size for file, size in wanted.items() if file not in files]
    described = _described(name, files, _weight_bytes_of(files), setting=setting, origin="hub")
    return msgspec.structs.replace(
        described,
        # One byte stands for weights of unknown size.
        fetch_bytes=sum(missing) if wanted else 1,
        fetch_into=Path(constants.HF_HUB_CACHE),
        weight_bytes=sum(size for file, size in wanted.items() if file.endswith(WEIGHTS))
        or described.weight_bytes,
        hub_answers=sizes is not None,
        source=_hub_source(name, files, is_whole=bool(wanted) and not missing),
    )


def _hub_source(name: str, files: dict[str, Path], *, is_whole: bool) -> str | None:
    if name in KNOWN_SHAPES:
        return name
    # Its folder in the cache: by its name the hub would be asked again.
    return str(files["config.json"].parent) if is_whole and "config.json" in files else None


def _sizes_on_hub(name: str) -> dict[str, int] | None:
    """Size of every file of a model, or None if the hub does not answer.

    Raises:
        HfHubHTTPError: it answers that there is no such model, or that it is not for everybody.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        info = HfApi().model_info(name, files_metadata=True, timeout=HUB_TIMEOUT_S)
    except (HfHubHTTPError, HFValidationError):
        raise
    except Exception:
        # Whatever its HTTP library throws without a connection: which library that is changes with versions.
        return None
    return {file.rfilename: file.size or 0 for file in info.siblings or []}


def _fetch(name: str, file: str) -> None:
    from huggingface_hub import hf_hub_download

    # It is small and only helps to know more.
    with contextlib.suppress(Exception):
        hf_hub_download(name, file, etag_timeout=HUB_TIMEOUT_S)


def _wanted(sizes: dict[str, int]) -> dict[str, int]:
    """The files that vLLM loads."""
    at_top = {file: size for file, size in sizes.items() if "/" not in file}
    others = (".json", ".jinja", ".txt", ".model")
    return {file: at_top[file] for file in [*_loaded(at_top), *(file for file in at_top if file.endswith(others))]}


def _loaded(files: Collection[str]) -> list[str]:
    """The weights among files that vLLM loads (`vllm.model_executor.model_loader.default_loader`).

    Of one kind; and where a model has them twice, Mistral's own files, which are consolidated.
    """
    weights = next((found for kind in WEIGHTS if (found := [each for each in files if each.endswith(kind)])), [])
    return [each for each in weights if fnmatch(each, CONSOLIDATED)] or weights


def _wanted_by_index(name: str) -> dict[str, int]:
    """What the files in the cache say that the weights are, where the hub can't be asked; sizes unknown."""
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
    """Bytes of the weights among files."""
    return sum(files[name].stat().st_size for name in _loaded(files))


def _described(
    name: str,
    files: dict[str, Path],
    weight_bytes: int,
    *,
    setting: str,
    origin: Origin,
) -> ModelFacts:
    config = _config(files, setting)
    tokenizer = _json(files["tokenizer_config.json"]) if "tokenizer_config.json" in files else {}
    knows = bool(tokenizer) or origin != "hub"
    has_template = "chat_template.jinja" in files or bool(tokenizer.get("chat_template"))
    return ModelFacts(
        name=name,
        origin=origin,
        config=config,
        has_chat_template=has_template if knows or has_template else None,
        is_sentence_encoder="modules.json" in files,
        weight_bytes=weight_bytes,
    )


def _config(files: dict[str, Path], setting: str) -> dict[str, object]:
    path = files.get("config.json")
    if path is None:
        return {}
    config = _json(path)
    if not config:
        raise ConfigurationError(f"{setting}: {path} is no JSON object. Fetch the model anew.")
    return config


def _json(path: Path) -> dict[str, Any]:
    """A JSON object in a file; empty if there is none that can be read."""
    with contextlib.suppress(OSError, msgspec.MsgspecError, UnicodeDecodeError):
        found = msgspec.json.decode(path.read_bytes())
        if isinstance(found, dict):
            return found
    return {}
