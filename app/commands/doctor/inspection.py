"""Checks the engines that run in process, through their provider: their models, memory and disk space."""

import shlex
from collections.abc import Iterator
from pathlib import Path

import psutil

from adapters.models import hardware
from adapters.models.locate import LocatedModel
from adapters.models.shape import UnknownShapeError
from adapters.vllm.inprocess.provider import InProcessProvider
from app.commands.doctor import gpu, machine, memory, models, numbers
from app.commands.doctor.finding import Finding, failure, warning
from domain.errors import ConfigurationError
from domain.model_facts import ModelFacts
from domain.roles import ROLES, Role

SHM = Path("/dev/shm")
CACHE_VARIABLE = {"package": "MEMORIA_CACHE_DIR", "hub": "HF_HOME"}


class Inspection:
    """Checks the engines of one provider. Models have to be checked before memory and disk."""

    def __init__(self, provider: InProcessProvider) -> None:
        self._provider = provider
        self._found: dict[Role, ModelFacts] = {}

    def check_model(self, role: Role) -> Iterator[Finding]:
        """Check that a model is available, fits its role, and has weights in a supported format."""
        found = self._found[role] = self._provider.inspect(role)
        yield models.check_presence(role, found)
        if (finding := models.check_role(role, found)) is not None:
            yield finding
        flags = shlex.split(self._provider.options.engines[role].flags)
        if (finding := self._check_weights(role, found.config, flags)) is not None:
            yield finding
        if ROLES[role].generates:
            yield models.check_chat_template(role, found, flags=flags)

    def _check_weights(self, role: Role, config: dict[str, object], flags: list[str]) -> Finding | None:
        check, card = f"{role} weights", self._provider.card
        if card.is_gpu:
            return numbers.check_numbers_on_card(check, config, card)
        variable = f"VLLM_{ROLES[role].prefix}_ARGS"
        return numbers.check_numbers_on_cpu(check, config, flags=flags, variable=variable)

    def check_memory(self) -> Iterator[Finding]:
        """Check the memory of the GPU, or else of the machine, by the plan of a start, without fetching models."""
        card = self._provider.card
        check = "gpu memory" if card.is_gpu else "memory"
        if card.is_gpu:
            yield machine.check_host_memory(hardware.ram().free_bytes, engines=len(self._provider.options.engines))
        if not self._has_all_models:
            yield warning(check, "can't be planned until the models are found", "Correct the models, then rerun")
            return
        if absent := [model.name for model in self._found.values() if model.source is None]:
            yield memory.plan_comes_later(check, card.free_bytes, absent)
            return
        try:
            plan = self._provider.plan(self._located())
        except UnknownShapeError as error:
            yield memory.no_plan(check, str(error))
            yield from self._check_memory_without_plan()
        except ConfigurationError as error:
            yield failure(check, str(error))
        else:
            yield memory.check_plan(check, plan)

    def _located(self) -> dict[Role, LocatedModel]:
        return {
            role: LocatedModel(name=model.name, source=model.source, is_local=True)
            for role, model in self._found.items()
            if model.source is not None
        }

    def _check_memory_without_plan(self) -> list[Finding]:
        """Check the default shares, which a start uses without a plan."""
        shares = self._provider.shares_without_plan()
        weights = {role: model.weight_bytes for role, model in self._found.items()}
        return gpu.check_gpu_memory(self._provider.card, shares, weights) if shares else []

    def check_shared_memory(self) -> Iterator[Finding]:
        """Check /dev/shm, through which engine processes exchange data."""
        free = psutil.disk_usage(str(SHM)).free if SHM.is_dir() else None
        yield machine.check_shared_memory(free, on_gpu=self._provider.card.is_gpu)

    def check_disk(self) -> Iterator[Finding]:
        """Check that there is space for models that will be fetched."""
        needs: dict[Path, int] = {}
        variables: dict[Path, str] = {}
        for model in self._found.values():
            if model.fetch_bytes:
                needs[model.fetch_into] = needs.get(model.fetch_into, 0) + model.fetch_bytes
                variables[model.fetch_into] = CACHE_VARIABLE[model.origin]
        if needs or self._has_all_models:
            yield from machine.check_disk(needs, variables)

    @property
    def _has_all_models(self) -> bool:
        return len(self._found) == len(self._provider.options.engines)
