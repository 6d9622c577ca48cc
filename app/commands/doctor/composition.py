"""Gathers what there is on this machine, and has it judged: the doctor's composition root.

What is slow is asked last, and nothing loads vLLM or PyTorch.
"""

import importlib.metadata
import platform
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

import psutil

from adapters.models.cards import first_card
from adapters.models.hardware import ram
from adapters.models.inspection import InspectedModel, inspect_model
from adapters.models.locate import LocatedModel, default_model
from adapters.models.shape import UnknownShapeError
from app.api_processes import require_gateway
from app.bootstrap import DEFAULT_GPU_SHARE, _gpu_share, _require_memory
from app.commands.doctor import configuration, gpu, machine, memory, models, numbers, packages, servers
from app.commands.doctor.finding import Finding, Report, failure, ok, report, warning
from app.commands.plan.composition import possible_plan
from app.commands.sizes import GIB
from app.http.api_keys import read_keys
from app.http.server import bind
from app.http.tls import require_pair
from app.settings import HTTP, INPROCESS, Settings, load_settings, unknown_names
from domain.errors import ConfigurationError
from domain.roles import ROLES, Role

PACKAGE = "memoria-vllm"
PIN_LISTS = Path(__file__).parents[3] / "deploy" / "requirements"
SHM = Path("/dev/shm")
Check = Callable[[], Iterable[Finding]]
CACHE_VARIABLE = {"package": "MEMORIA_CACHE_DIR", "hub": "HF_HOME"}


def examine(environ: Mapping[str, str], dotenv: Path, *, progress: Callable[[str], None]) -> Report:
    """Look at everything. Raises nothing: a check that fails itself is a finding too.

    Args:
        environ: the environment.
        dotenv: a .env file, which need not exist.
        progress: told what is being looked at.
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
        look("gpu", lambda: _card("gpu", has_engine=True))
        findings.append(
            warning("the rest", "can't be looked at before the settings can be read", "Look again when they can")
        )
        return report(findings)
    world = _World(settings)
    look("settings", lambda: _settings(settings, dotenv))
    look("port", lambda: _port(settings))
    look("gpu", lambda: _card("gpu", has_engine=bool(world.roles)))
    for role, own in settings.roles.items():
        if own.backend == INPROCESS:
            look(f"{role} model", lambda role=role: world.check_model(role))  # type: ignore[misc]
    if world.roles:
        look("memory", world.check_memory)
        look("/dev/shm", world.check_shared_memory)
        look("disk", world.check_disk)
    for role, own in settings.roles.items():
        if own.backend == HTTP:
            look(f"{role} server", lambda role=role: _servers(role, settings))  # type: ignore[misc]
    return report(findings)


def judged(what: str, check: Check) -> list[Finding]:
    """What a check finds until it ends or fails; that it failed is a finding too."""
    found: list[Finding] = []
    try:
        # One by one, so that what was found before a failure is told.
        for finding in check():
            found.append(finding)  # noqa: PERF402
    except ConfigurationError as error:
        found += [failure(what, line) for line in str(error).splitlines()]
    except Exception as error:
        said = f"could not be looked at ({type(error).__name__}: {error})"
        found.append(warning(what, said, "Look at it by hand"))
    return found


class _World:
    """The settings and the models that they name."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.roles = [role for role, own in settings.roles.items() if own.backend == INPROCESS]
        self._found: dict[Role, InspectedModel] = {}

    def check_model(self, role: Role) -> Iterator[Finding]:
        """A model: there, of the right kind, and with numbers that the card knows."""
        own, card = self._settings.role(role), _usable_card()
        name = own.model or default_model(role, card.total_bytes / GIB if card else None)
        found = inspect_model(name, setting=f"MODEL_{ROLES[role].prefix}_NAME", cache=self._settings.cache_dir)
        self._found[role] = found
        facts = _facts(found)
        yield models.check_presence(role, facts)
        if (finding := models.check_role(role, facts)) is not None:
            yield finding
        flags = shlex.split(own.args)
        if (finding := self._check_numbers(role, found.config, flags)) is not None:
            yield finding
        if role is Role.GENERATE:
            yield models.check_chat_template(facts, flags=flags)

    @staticmethod
    def _check_numbers(role: Role, config: dict[str, object], flags: list[str]) -> Finding | None:
        check, card = f"{role} weights", _usable_card()
        if card is not None:
            return numbers.check_numbers_on_card(check, config, card)
        return numbers.check_numbers_on_cpu(check, config, flags=flags, variable=f"VLLM_{ROLES[role].prefix}_ARGS")

    def check_memory(self) -> Iterator[Finding]:
        """Of the card, or else of the machine: by the plan that a start would make, without fetching a model."""
        card, free_ram = _usable_card(), _free_ram()
        check = "memory" if card is None else "gpu memory"
        if card is not None:
            yield machine.check_host_memory(free_ram)
        if len(self._found) < len(self.roles):
            yield warning(check, "can't be planned before the models are found", "Look again when they are")
            return
        here = {
            role: LocatedModel(name=model.name, source=model.source, is_local=True)
            for role, model in self._found.items()
            if model.source is not None
        }
        if absent := [model.name for role, model in self._found.items() if role not in here]:
            yield memory.plan_comes_later(check, free_ram if card is None else card.free_bytes, absent)
            return
        gpu_gib = card.total_bytes / GIB if card else None
        try:
            plan = possible_plan(here, self._settings, gpu_gib, lone_share=DEFAULT_GPU_SHARE)
        except UnknownShapeError as error:
            yield memory.no_plan(check, str(error))
            yield from self._check_memory_without_plan(card)
        except ConfigurationError as error:
            yield failure(check, str(error))
        else:
            yield memory.check_plan(check, plan)

    def _check_memory_without_plan(self, card: gpu.Card | None) -> list[Finding]:
        """What a start asks for then."""
        if card is None:
            _require_memory(self.roles)
            return []
        shares = {role: _gpu_share(role, self._settings.role(role), card.total_bytes / GIB) for role in self.roles}
        asked = {str(role): share for role, share in shares.items() if share is not None}
        weights_of = {str(role): model.weight_bytes for role, model in self._found.items()}
        return gpu.check_gpu_memory(card, asked, weights_of)

    def check_shared_memory(self) -> Iterator[Finding]:
        """Where engine processes exchange what they compute."""
        free = psutil.disk_usage(str(SHM)).free if SHM.is_dir() else None
        yield machine.check_shared_memory(free, on_gpu=_usable_card() is not None)

    def check_disk(self) -> Iterator[Finding]:
        """Room for what will be fetched."""
        needs: dict[Path, int] = {}
        variables: dict[Path, str] = {}
        for model in self._found.values():
            if model.fetch_bytes:
                needs[model.fetch_into] = needs.get(model.fetch_into, 0) + model.fetch_bytes
                variables[model.fetch_into] = CACHE_VARIABLE[model.origin]
        if needs or len(self._found) == len(self.roles):
            yield from machine.check_disk(needs, variables)


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


def _card(check: str, *, has_engine: bool) -> list[Finding]:
    return gpu.check_card(_any_card(), flavour=packages.flavour(_installed), cuda=_cuda(), has_engine=has_engine)


@cache
def _any_card() -> gpu.Card | None:
    found = first_card()
    return (
        None
        if found is None
        else gpu.Card(
            name=found.name,
            driver=found.driver,
            capability=found.capability,
            total_bytes=found.total_bytes,
            free_bytes=found.free_bytes,
        )
    )


def _usable_card() -> gpu.Card | None:
    """The card on which engines of this install compute."""
    return _any_card() if packages.flavour(_installed) == "gpu" else None


def _free_ram() -> int:
    here = ram()
    return here.total_bytes - here.used_bytes


def _cuda() -> int | None:
    """Version of CUDA that this install brings, its first number."""
    version = _installed("nvidia-cuda-runtime") or ""
    major = version.split(".")[0]
    return int(major) if major.isdigit() else None


def _facts(model: InspectedModel) -> models.ModelFacts:
    return models.ModelFacts(
        name=model.name,
        origin=model.origin,
        config=model.config,
        has_chat_template=model.has_chat_template,
        is_sentence_encoder=model.is_sentence_encoder,
        package_role=model.package_role,
        weight_bytes=model.weight_bytes,
        fetch_bytes=model.fetch_bytes,
        hub_answers=model.hub_answers,
    )


def _servers(role: Role, settings: Settings) -> list[Finding]:
    own = settings.role(role)
    answers = servers.ask(own.urls, api_key=own.api_key, timeout_s=settings.http.connect_timeout_s)
    return servers.check_servers(role, answers, prefix=ROLES[role].prefix, model=own.model)
