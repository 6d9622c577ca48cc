"""The steps of a proof: each starts the service in one way, looks at it, and ends it."""

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from adapters.models.hardware import ram
from app.commands.bench.processes import Models, Server, servers, side
from domain.errors import ConfigurationError
from domain.roles import Role
from tools.gpu_proof.clock import Clock
from tools.gpu_proof.memory import (
    card_now,
    compare_card,
    lists_processes,
    logged_memory,
    memory_by_role,
    memory_failures,
    used,
    with_context,
)
from tools.gpu_proof.report import report_text
from tools.gpu_proof.service import (
    last_words,
    loads,
    measured,
    prove_restart,
    run_within,
    settled_health,
    wait_until_ready,
)
from tools.gpu_proof.speed import compare_speed
from tools.gpu_proof.steps import (
    ARGUMENTS,
    COMPARE,
    REFUSAL,
    SETTINGS,
    ProofError,
    Setting,
    memoria,
    model_settings,
    setting_of,
)

LEAST_S = 45.0
"""Seconds without which no further step is begun."""
FREED_WITHIN_S = 10.0
KEPT_LOG = 400_000
"""Bytes of a failed step's log that are kept: its end."""


class Proof:
    """The steps of one proof."""

    def __init__(
        self,
        options: argparse.Namespace,
        clock: Clock,
        folder: Path,
        models: Models,
        report: dict[str, Any],
        *,
        card_bytes: int | None,
    ) -> None:
        self._options = options
        self._clock = clock
        self._folder = folder
        self._models = models
        self._report = report
        self._card_bytes = card_bytes
        self._settings = model_settings(options.shape, models, options.flags)

    def run(self) -> None:
        """Do every step for which there is time."""
        self._clock.say("memoria doctor")
        self._report["doctor"] = self._asked("doctor")
        for name in self._options.steps:
            if self._report["steps"] and self._clock.left_s < LEAST_S:
                self._report["left_out"].append(name)
                continue
            step: dict[str, Any] = {"name": name, "failures": []}
            self._report["steps"].append(step)
            self._clock.say(f"step {name}")
            try:
                self._do(name, step)
            except (ProofError, ConfigurationError) as error:
                step["failures"].append(str(error))
            self._report["failures"] += [f"{name}: {failure}" for failure in step["failures"]]
            self._clear_logs(step)
            self._write()
            if step["failures"]:
                self._clock.say(f"step {name} failed: {step['failures'][0]}")
            if step is self._report["steps"][0] and "ready_after_s" not in step and name in SETTINGS:
                # If the engines do not start at all, no other step will tell more.
                break

    def _do(self, name: str, step: dict[str, Any]) -> None:
        if name == REFUSAL:
            self._refusal(step)
        elif name == COMPARE:
            self._compare(step)
        else:
            self._setting(SETTINGS[name], step)

    def _setting(self, setting: Setting, step: dict[str, Any]) -> None:
        """Start the service, look at it, load it, look again, end it."""
        settings = setting_of(setting, self._settings, card_bytes=self._card_bytes, clock=self._clock)
        step["settings"] = {name: value.replace(f"{self._folder}/", "") for name, value in settings.items()}
        step["plan"] = self._asked("plan", settings)
        cards = step["cards"] = {"before": card_now()}
        with servers(self._folder) as running:
            service = running.memoria(settings)
            try:
                ready = wait_until_ready(service, self._clock)
                step["ready_after_s"] = round(ready, 1)
                self._clock.say(f"both models are ready after {ready:.0f} s")
                self._load(setting, service, step)
            finally:
                free = None if cards["before"] is None else cards["before"]["free_bytes"]
                step["logged"] = with_context(logged_memory(service.log), free)
                self._clock.say("ending the service")
        cards["ended"] = self._card_when_freed(cards["before"])
        self._compare_memory(step)

    def _load(self, setting: Setting, service: Server, step: dict[str, Any]) -> None:
        cards, names = step["cards"], [model.name for model in self._models.values()]
        cards["ready"] = card_now()
        wanted = loads(self._options.clients)
        self._clock.say(f"{len(wanted)} loads")
        work = measured(side("memoria", service, service, *names), wanted, seconds=self._options.seconds)
        try:
            step["measurements"] = msgspec.to_builtins(run_within(work, self._clock))
        except (TimeoutError, OSError) as error:
            step["failures"].append(f"The load broke off: {error or 'it did not end in time'}.")
            return
        failed = sum(each["failed"] for each in step["measurements"])
        step["failures"] += [f"{failed} requests failed."] if failed else []
        step["health"] = settled_health(service, self._clock)
        cards["after"] = card_now()
        if setting.is_killed:
            self._restart(service, step)

    def _restart(self, service: Server, step: dict[str, Any]) -> None:
        self._clock.say("killing an engine")
        try:
            step["restart"] = found = prove_restart(service, self._clock)
        except ProofError as error:
            # What was measured before counts all the same.
            step["failures"].append(str(error))
            return
        step["cards"]["restarted"] = card_now()
        if found["failed"]:
            step["failures"].append(f"{found['failed']} requests to the other engine failed.")

    def _compare_memory(self, step: dict[str, Any]) -> None:
        health, on_card = step.get("health"), self._card_bytes is not None
        if health is None:
            return
        # If the driver lists no processes, the change of the card's used memory is what both engines take.
        by_process = lists_processes(health) or used(step["cards"]["before"]) is None
        compared = memory_by_role(health, step["logged"], on_card=on_card, by_process=by_process)
        step["memory"], step["card"] = compared, compare_card(step["cards"] if on_card else {}, compared)
        step["failures"] += memory_failures(health, compared, on_card=on_card) + step["card"]["complaints"]

    def _refusal(self, step: dict[str, Any]) -> None:
        """An embedding engine that asks for all of the memory has to be refused before anything starts."""
        name = ARGUMENTS[Role.EMBED]
        everything = self._card_bytes or ram().total_bytes
        # Of a flag that is there twice the last one counts.
        flags = f"{self._settings[name]} --kv-cache-memory-bytes {everything}"
        with servers(self._folder) as running:
            service = running.memoria({**self._settings, name: flags})
            try:
                wait_until_ready(service, self._clock)
            except ProofError:
                if service.is_running:
                    raise
                step["refusal"] = last_words(service.log)
            else:
                step["failures"].append("The service started, although the embedding engine asks for all memory.")

    def _compare(self, step: dict[str, Any]) -> None:
        options = self._options
        with servers(self._folder) as running:
            step |= compare_speed(
                running,
                self._models,
                self._settings,
                card_bytes=self._card_bytes,
                clients=options.clients,
                rounds=options.rounds,
                seconds=options.seconds,
                has_statistics=options.statistics == "on",
                clock=self._clock,
            )

    def _asked(self, command: str, settings: Mapping[str, str] | None = None) -> Any:
        """What one of the service's commands says as JSON, or None if it can't."""
        try:
            return json.loads(memoria([command, "--json"], settings or self._settings, self._clock).stdout)
        except (ProofError, ValueError):
            return None

    def _clear_logs(self, step: dict[str, Any]) -> None:
        """Remove the logs of a step; of one that failed their ends are kept beside the report."""
        for log in self._folder.glob("server-*.log"):
            if step["failures"]:
                kept = self._options.output / log.name.replace("server-", f"server-{step['name']}-")
                kept.write_bytes(log.read_bytes()[-KEPT_LOG:])
            log.unlink()

    def _card_when_freed(self, before: dict[str, Any] | None) -> dict[str, Any] | None:
        """The card when no more is in use than before, or after some seconds."""
        patience = time.monotonic() + FREED_WITHIN_S
        while True:
            now = card_now()
            if before is None or now is None or now["free_bytes"] >= before["free_bytes"]:
                return now
            if time.monotonic() > patience:
                return now
            time.sleep(1.0)

    def _write(self) -> None:
        report = self._report
        report["passed"] = not report["failures"]
        (self._options.output / "report.json").write_text(json.dumps(report, indent=1))
        (self._options.output / "report.md").write_text(report_text(report))
