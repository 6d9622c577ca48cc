"""Resolves a model name from a setting to a folder or hub name, before any engine starts."""

import difflib
from pathlib import Path

import msgspec

from adapters.models.packaged import PACKAGED_MODELS, prepare
from domain.errors import ConfigurationError
from domain.memory_plan import Card
from domain.progress import Progress
from domain.roles import ROLES, Role
from domain.units import GIB

# The default models need 9.9 GiB for their weights alone; a smaller GPU has little room for contexts.
GPU_DEFAULTS_GIB = 20.0
HUB_TIMEOUT_S = 10.0


class LocatedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model that exists, and where vLLM loads it from."""

    name: str
    """The model id for clients."""
    source: str
    """Local folder or hub name, for vLLM."""
    is_local: bool


def default_model(role: Role, card: Card) -> str:
    """A role's default model: the larger one if there is a GPU with enough memory for both.

    Raises:
        ConfigurationError: the role is optional, and has none.
    """
    is_large = card.is_gpu and card.total_bytes >= GPU_DEFAULTS_GIB * GIB
    info = ROLES[role]
    name = info.gpu_default_model if is_large else info.cpu_default_model
    if name is None:
        raise ConfigurationError(f"There is no default {info.noun} model. Set MODEL_{info.prefix}_NAME.")
    return name


def locate(name: str, *, setting: str, cache: Path, progress: Progress) -> LocatedModel:
    """Find a model by the name of a packaged model, a local folder or a hub name, and prepare it if necessary.

    Raises:
        ConfigurationError: the model does not exist; the message names the setting and a remedy.
    """
    if name in PACKAGED_MODELS:
        folder = prepare(PACKAGED_MODELS[name], cache / "models", progress)
        return LocatedModel(name=name, source=str(folder), is_local=True)
    try:
        folder = Path(name).expanduser()
        is_folder = folder.is_dir()
    except (OSError, RuntimeError):
        # The home folder of an unknown user, or a path that is too long.
        is_folder = False
    if is_folder:
        return _local(folder, setting)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ConfigurationError(f"{setting}: there is no folder {name}. Set it to the folder of a model.")
    if name.count("/") == 1:
        _check_hub(name, setting)
        return LocatedModel(name=name, source=name, is_local=False)
    matches = difflib.get_close_matches(name, PACKAGED_MODELS, n=1, cutoff=0.5)
    hint = f" Did you mean '{matches[0]}'?" if matches else ""
    raise ConfigurationError(
        f"{setting}: '{name}' is not a known model.{hint} Use {', '.join(PACKAGED_MODELS)}, a hub name such "
        "as Qwen/Qwen3-8B-FP8, or a local folder."
    )


def _local(folder: Path, setting: str) -> LocatedModel:
    if not (folder / "config.json").is_file():
        raise ConfigurationError(
            f"{setting}: {folder} has no config.json, so it is not a model in the format of Hugging Face "
            "transformers. Set it to the folder with config.json and the weights."
        )
    return LocatedModel(name=folder.resolve().name, source=str(folder.resolve()), is_local=True)


def _check_hub(name: str, setting: str) -> None:
    """Raise unless the model is on the hub or in its local cache."""
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import (
            GatedRepoError,
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
        )
    except ImportError as error:
        raise ConfigurationError(
            f"{setting}: '{name}' is a hub name, but this installation (gateway) has no access to the hub."
        ) from error

    try:
        hf_hub_download(name, "config.json", etag_timeout=HUB_TIMEOUT_S)
    except GatedRepoError as error:
        raise ConfigurationError(
            f"{setting}: '{name}' asks for an agreement on the hub. Accept it there, then set HF_TOKEN."
        ) from error
    except RepositoryNotFoundError as error:
        raise ConfigurationError(
            f"{setting}: the hub has no model '{name}', or it is private and HF_TOKEN is not set. Check the name."
        ) from error
    except HFValidationError as error:
        raise ConfigurationError(f"{setting}: '{name}' is not a valid hub name.") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ConfigurationError(
            f"{setting}: '{name}' is not in the model cache of this machine, and the hub can't be reached. "
            f"Connect the machine to the network, set the name to a local folder, or leave it unset to use the "
            f"small models that need no hub."
        ) from error
