"""Gathers what there is on this machine, and has it checked: the doctor's composition root.

What is slow is asked last, and nothing loads vLLM or PyTorch.
"""

import importlib.metadata
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from adapters.models import hardware
from app.api_processes import require_gateway
from app.commands.doctor import configuration, gpu, packages, servers
from app.commands.doctor.finding import Finding, Report, failure, ok, report, warning
from app.commands.doctor.inspection import Inspection
from app.engines import inprocess_provider, inprocess_roles
from app.http.api_keys import read_keys
from app.http.server import bind
from app.http.tls import require_pair
from app.settings import HTTP, Settings, load_settings, unknown_names
from domain.errors import ConfigurationError
from domain.roles import Role

PACKAGE = "memoria-vllm"
PIN_LISTS = Path(__file__).parents[3] / "deploy" / "requirements"
Check = Callable[[], Iterable[Finding]]


def examine(environ: Mapping[str, str], dotenv: Path, *, progress: Callable[[str], None]) -> Report:
    """Look at everything. Raises nothing: a check that fails itself is a finding too.

    Args:
        environ: the environment.
        dotenv: a .env file, which need not exist.
        progress: called with what is being checked.
    """
    findings: list[Finding] = []

    def look(what: str, check: Check) -> None:
        progress(f"looking at {what}")
        findings.extend(judged(what, check))

    look("packages", _packages)
    try:
        settings = load_settings(environ, dotenv)
    except ConfigurationError as error:
        findings += configuration.mistakes(error)
        look("gpu", lambda: _gpu(has_engine=True))
        findings.append(
            warning("the rest", "can't be looked at before the settings can be read", "Look again when they can")
        )
        return report(findings)
    look("settings", lambda: _settings(settings, dotenv))
    look("port", lambda: _port(settings))
    roles = inprocess_roles(settings)
    look("gpu", lambda: _gpu(has_engine=bool(roles)))
    if roles:
        inspection = Inspection(inprocess_provider(settings, roles))
        for role in roles:
            look(f"{role} model", lambda role=role: inspection.check_model(role))  # type: ignore[misc]
        look("memory", inspection.check_memory)
        look("/dev/shm", inspection.check_shared_memory)
        look("disk", inspection.check_disk)
    for role, own in settings.roles.items():
        if own.backend == HTTP:
            look(f"{role} server", lambda role=role: _servers(role, settings))  # type: ignore[misc]
    return report(findings)


def judged(what: str, check: Check) -> list[Finding]:
    """What a check finds until it ends or fails; that it failed is a finding too."""
    found: list[Finding] = []
    try:
        # One by one, so that what was found before a failure is reported.
        for finding in check():
            found.append(finding)  # noqa: PERF402
    except ConfigurationError as error:
        found += [failure(what, line) for line in str(error).splitlines()]
    except Exception as error:
        said = f"could not be looked at ({type(error).__name__}: {error})"
        found.append(warning(what, said, "Look at it by hand"))
    return found


def _packages() -> Iterator[Finding]:
    metadata = importlib.metadata.metadata(PACKAGE)
    name = packages.flavour(_installed)
    yield packages.check_python(platform.python_version(), metadata["Requires-Python"])
    declared = packages.wanted(metadata.get_all("Requires-Dist") or [], extra=name)
    pins = packages.pinned(PIN_LISTS / f"{name}.txt")
    yield from packages.check_packages(declared, pins, _installed, name=name)


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _settings(settings: Settings, dotenv: Path) -> Iterator[Finding]:
    security = settings.security
    rules = (
        lambda: require_gateway(settings),
        lambda: require_pair(security),
        lambda: read_keys(security),
    )
    yield from configuration.check_settings(settings, rules, unknown=unknown_names(dotenv))
    has_keys = bool(security.api_keys) or security.api_keys_file is not None
    yield configuration.check_exposure(
        settings.host, has_keys=has_keys, has_tls=security.tls_cert_file is not None
    )


def _port(settings: Settings) -> Iterator[Finding]:
    with bind(settings.host, settings.port):
        pass
    free = f"{settings.host}:{settings.port} is free" if settings.port else "any free one will be taken (PORT=0)"
    yield ok("port", free)


def _gpu(*, has_engine: bool) -> list[Finding]:
    return gpu.check_card(
        hardware.gpu_card(),
        driver=hardware.gpu_driver(),
        flavour=packages.flavour(_installed),
        cuda=_cuda(),
        has_engine=has_engine,
    )


def _cuda() -> int | None:
    """Version of CUDA that this install brings, its first number."""
    version = _installed("nvidia-cuda-runtime") or ""
    major = version.split(".")[0]
    return int(major) if major.isdigit() else None


def _servers(role: Role, settings: Settings) -> list[Finding]:
    own = settings.role(role)
    answers = servers.ask(own.urls, api_key=own.api_key, timeout_s=settings.http.connect_timeout_s)
    return servers.check_servers(role, answers, model=own.model)
