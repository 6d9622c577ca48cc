"""The doctor's composition root: gathers facts about this machine and runs all checks.

Slow checks run last, and nothing loads vLLM or PyTorch.
"""

import importlib.metadata
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from adapters.models import hardware
from app.api_processes import require_gateway
from app.commands.doctor import configuration, gpu, packages, servers
from app.commands.doctor.files import check_files, no_files
from app.commands.doctor.finding import Finding, Report, failure, ok, report, warning
from app.commands.doctor.inspection import Inspection
from app.commands.doctor.state import check_state, nothing_stored
from app.engines import inprocess_provider, inprocess_roles
from app.http.api_keys import read_keys
from app.http.server import bind
from app.http.tls import require_pair
from app.settings import HTTP, Settings, StateSettings, load_settings, unknown_names
from app.store import FILES_FOLDER, inspect_store
from domain.errors import ConfigurationError
from domain.roles import Role

PACKAGE = "memoria-vllm"
PIN_LISTS = Path(__file__).parents[3] / "deploy" / "requirements"
Check = Callable[[], Iterable[Finding]]


def examine(environ: Mapping[str, str], dotenv: Path, *, progress: Callable[[str], None]) -> Report:
    """Run all checks. Never raises: a check that fails itself is reported as a finding.

    Args:
        environ: the environment.
        dotenv: path of a .env file, which need not exist.
        progress: called with the name of each check.
    """
    findings: list[Finding] = []

    def run(name: str, check: Check) -> None:
        progress(f"checking {name}")
        findings.extend(run_check(name, check))

    run("packages", _packages)
    try:
        settings = load_settings(environ, dotenv)
    except ConfigurationError as error:
        findings += configuration.mistakes(error)
        run("gpu", lambda: _gpu(has_engine=True))
        findings.append(
            warning(
                "the rest", "can't be checked until the settings are valid", "Correct the settings, then rerun"
            )
        )
        return report(findings)
    run("settings", lambda: _settings(settings, dotenv))
    run("port", lambda: _port(settings))
    run("responses", lambda: _state(settings.state))
    run("files", lambda: [_files(settings)])
    roles = inprocess_roles(settings)
    run("gpu", lambda: _gpu(has_engine=bool(roles)))
    if roles:
        inspection = Inspection(inprocess_provider(settings, roles))
        for role in roles:
            run(f"{role} model", lambda role=role: inspection.check_model(role))  # type: ignore[misc]
        run("memory", inspection.check_memory)
        run("/dev/shm", inspection.check_shared_memory)
        run("disk", inspection.check_disk)
    for role, own in settings.roles.items():
        if own.backend == HTTP:
            run(f"{role} server", lambda role=role: _servers(role, settings))  # type: ignore[misc]
    return report(findings)


def run_check(name: str, check: Check) -> list[Finding]:
    """The findings of a check; if it fails, those until then and one about the failure."""
    found: list[Finding] = []
    try:
        # One by one, so that findings before a failure are kept.
        for finding in check():
            found.append(finding)  # noqa: PERF402
    except ConfigurationError as error:
        found += [failure(name, line) for line in str(error).splitlines()]
    except Exception as error:
        message = f"could not be checked ({type(error).__name__}: {error})"
        found.append(warning(name, message, "Check it manually"))
    return found


def _packages() -> Iterator[Finding]:
    metadata = importlib.metadata.metadata(PACKAGE)
    name = packages.flavor(_installed)
    yield packages.check_python(platform.python_version(), metadata["Requires-Python"])
    declared = packages.applicable(metadata.get_all("Requires-Dist") or [], extra=name)
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
    free = f"{settings.host}:{settings.port} is free" if settings.port else "any free port will be used (PORT=0)"
    yield ok("port", free)


def _state(state: StateSettings) -> Iterator[Finding]:
    found = inspect_store(state)
    if found is None:
        yield nothing_stored()
        return
    limits = {"max_age_days": state.max_age_days, "max_bytes": state.max_bytes}
    yield check_state(found.where, found.path, found.size_bytes, **limits)


def _files(settings: Settings) -> Finding:
    if not settings.state.is_on:
        return no_files()
    return check_files(settings.state.data_dir / FILES_FOLDER, max_total_bytes=settings.files.max_total_bytes)


def _gpu(*, has_engine: bool) -> list[Finding]:
    return gpu.check_card(
        hardware.gpu_card(),
        driver=hardware.gpu_driver(),
        flavor=packages.flavor(_installed),
        cuda=_cuda(),
        has_engine=has_engine,
    )


def _cuda() -> int | None:
    """Major version of the CUDA runtime in this install."""
    version = _installed("nvidia-cuda-runtime") or ""
    major = version.split(".")[0]
    return int(major) if major.isdigit() else None


def _servers(role: Role, settings: Settings) -> list[Finding]:
    own = settings.role(role)
    answers = servers.ask(own.urls, api_key=own.api_key, timeout_s=settings.http.connect_timeout_s)
    return servers.check_servers(role, answers, model=own.model)
