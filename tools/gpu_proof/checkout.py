"""Lets a bare checkout run as an installed package does."""

import importlib.metadata
import os
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
NAME = "memoria-vllm"


def prepare(folder: Path) -> None:
    """Let this process and those that it starts import the checkout, installed or not.

    The packages read their version from their metadata, and there vLLM finds the plugin that ties an engine's life
    to the service's. Where nothing is installed, the same metadata is written from pyproject.toml.

    Args:
        folder: for the metadata; must exist as long as anything runs.
    """
    paths = [str(ROOT)]
    try:
        importlib.metadata.version(NAME)
    except importlib.metadata.PackageNotFoundError:
        _write_metadata(folder, tomllib.loads((ROOT / "pyproject.toml").read_text())["project"])
        paths.append(str(folder))
        sys.path.append(str(folder))
    os.environ["PYTHONPATH"] = os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])])


def _write_metadata(folder: Path, project: dict[str, Any]) -> None:
    """Format: packaging.python.org/specifications/core-metadata and /entry-points."""
    target = folder / f"{NAME.replace('-', '_')}-{project['version']}.dist-info"
    target.mkdir(parents=True)
    extras = project["optional-dependencies"]
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {NAME}",
        f"Version: {project['version']}",
        f"Requires-Python: {project['requires-python']}",
        *(f"Requires-Dist: {needed}" for needed in project["dependencies"]),
        *(f"Provides-Extra: {extra}" for extra in extras),
        *(f'Requires-Dist: {needed}; extra == "{extra}"' for extra in extras for needed in extras[extra]),
    ]
    (target / "METADATA").write_text("\n".join(lines) + "\n")
    groups = project["entry-points"].items()
    points = [
        f"[{group}]\n" + "".join(f"{name} = {at}\n" for name, at in found.items()) for group, found in groups
    ]
    (target / "entry_points.txt").write_text("\n".join(points))
