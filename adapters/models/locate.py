"""From the name in a setting to something that vLLM can load, checked before any engine starts."""

import difflib
from pathlib import Path

import msgspec

from adapters.models.packaged import PACKAGED_MODELS, prepare
from domain.errors import ConfigurationError
from domain.memory_plan import Card
from domain.progress import Progress
from domain.roles import ROLES, Role
from domain.units import GIB

# The default pair needs 9.9 GiB for its weights alone; below this little room is left for contexts.
GPU_DEFAULTS_GIB = 20.0
HUB_TIMEOUT_S = 10.0


class LocatedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model that exists."""

    name: str
    """The id that clients use."""
    source: str
    """Local folder or hub name, as vLLM takes it."""
    is_local: bool


def default_model(role: Role, card: Card) -> str:
    """The model for a role that no setting names: by whether there is a GPU with room for the larger ones."""
    is_large = card.is_gpu and card.total_bytes >= GPU_DEFAULTS_GIB * GIB
    return ROLES[role].gpu_default_model if is_large else ROLES[role].cpu_default_model


def locate(name: str, *, setting: str, cache: Path, progress: Progress) -> LocatedModel:
    """Find a model by the name of a packaged one, a local folder or a hub name; prepare or look it up.

    Raises:
        ConfigurationError: there is no such model; the message names the setting and what to do.
    """
    if name in PACKAGED_MODELS:
        folder = prepare(PACKAGED_MODELS[name], cache / "models", progress)
        return LocatedModel(name=name, source=str(folder), is_local=True)
    try:
        folder = Path(name).expanduser()
        is_folder = folder.is_dir()
    except (OSError, RuntimeError):
        # The home folder of an unknown user, or longer than any path can be.
        is_folder = False
    if is_folder:
        return _local(folder, setting)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ConfigurationError(f"{setting}: there is no folder {name}. Name an existing folder of a model.")
    if name.count("/") == 1:
        _look_up(name, setting)
        return LocatedModel(name=name, source=name, is_local=False)
    near = difflib.get_close_matches(name, PACKAGED_MODELS, n=1, cutoff=0.5)
    meant = f" Did you mean '{near[0]}'?" if near else ""
    raise ConfigurationError(
        f"{setting}: '{name}' is no known model.{meant} Allowed are {', '.join(PACKAGED_MODELS)}, a hub name "
        "such as Qwen/Qwen3-8B-FP8, or a local folder."
    )


def _local(folder: Path, setting: str) -> LocatedModel:
    if not (folder / "config.json").is_file():
        raise ConfigurationError(
            f"{setting}: {folder} has no config.json, so it is no model in the format of Hugging Face "
            "transformers. Name the folder that holds config.json and the weights."
        )
    return LocatedModel(name=folder.resolve().name, source=str(folder.resolve()), is_local=True)


def _look_up(name: str, setting: str) -> None:
    """Raise unless the hub, or its cache on this machine, has the model."""
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
            f"{setting}: '{name}' is a hub name, and this install (gateway) can't ask the hub."
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
        raise ConfigurationError(f"{setting}: '{name}' can't be a hub name.") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ConfigurationError(
            f"{setting}: '{name}' is not in the model cache of this machine, and the hub can't be reached. "
            f"Connect the machine, set the name to a local folder, or leave it out for the small models "
            f"that need no hub."
        ) from error
