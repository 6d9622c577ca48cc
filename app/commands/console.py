"""Console output of the commands: progress bars of the preparation, engine status, warnings and errors."""

import logging
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn, TimeElapsedColumn

from app.telemetry.log import FIELDS, JSON, chosen_format
from domain.health import BackendHealth, BackendState
from domain.policies.supervision import UNHEALTHY
from domain.roles import Role

STYLE = {
    BackendState.STARTING: "cyan",
    BackendState.READY: "green",
    BackendState.BUSY: "green",
    BackendState.UNAVAILABLE: "yellow",
    BackendState.DEAD: "red",
    BackendState.HUNG: "red",
    BackendState.DRAINING: "dim",
    BackendState.FAILED: "red",
    BackendState.STOPPED: "dim",
}


class Console:
    """Writes to standard error; standard output is for results."""

    def __init__(self, began: float | None = None) -> None:
        """Create a console.

        Args:
            began: value of `time.monotonic` from which elapsed times count; None for now.
        """
        self._rich = RichConsole(stderr=True, highlight=False, soft_wrap=True)
        self._began = time.monotonic() if began is None else began

    def say(self, text: str) -> None:
        """Print one line."""
        self._rich.print(text, markup=False)

    def fail(self, text: str) -> None:
        """Print an error."""
        self._rich.print(f"memoria: {text}", style="red", markup=False)

    def warn(self, text: str) -> None:
        """Print a warning."""
        self._rich.print(f"memoria: {text}", style="yellow", markup=False)

    def health_changed(self, role: Role, health: BackendHealth) -> None:
        """Print one line when a role's state, or the reason for it, has changed."""
        elapsed = f"{time.monotonic() - self._began:5.0f} s"
        reason = f"  {health.reason}" if health.reason else ""
        line = f"{elapsed}  {role:<9} {health.state:<11} {health.model or ''}{reason}"
        self._rich.print(line, style=STYLE[health.state], markup=False)

    @contextmanager
    def progress(self) -> Generator[Callable[[str, float | None], None], None, None]:
        """Show a progress bar for each step; it pulses if the step does not report its progress."""
        bars = Progress(
            TextColumn("  {task.description:<48}"), BarColumn(28), TimeElapsedColumn(), console=self._rich
        )
        with bars:
            yield StepProgress(self._rich, bars)

    def bars(self, *columns: ProgressColumn) -> Progress:
        """Progress bars with these columns; a context manager that shows them."""
        return Progress(*columns, console=self._rich)


class LogConsole(Console):
    """Writes the same messages to the log, for machines."""

    def __init__(self, began: float | None = None) -> None:
        super().__init__(began)
        self._log = logging.getLogger("memoria")

    def say(self, text: str) -> None:
        """Log one line."""
        self._log.info(text)

    def fail(self, text: str) -> None:
        """Log an error."""
        self._log.error(text)

    def warn(self, text: str) -> None:
        """Log a warning."""
        self._log.warning(text)

    def health_changed(self, role: Role, health: BackendHealth) -> None:
        """Log one line when a role's state, or the reason for it, has changed."""
        fields = {"role": role, "state": health.state, "reason": health.reason, "model": health.model}
        reason = f": {health.reason}" if health.reason else ""
        level = logging.WARNING if health.state in UNHEALTHY else logging.INFO
        self._log.log(level, f"{role} is {health.state}{reason}", extra={FIELDS: fields})

    @contextmanager
    def progress(self) -> Generator[Callable[[str, float | None], None], None, None]:
        """Log one line when a step begins."""
        steps: set[str] = set()

        def report(step: str, _share: float | None) -> None:
            if step not in steps:
                steps.add(step)
                self._log.info(step)

        yield report


def console_for(log_format: str, began: float | None = None) -> Console:
    """The console for a log format.

    Args:
        log_format: the value of LOG_FORMAT.
        began: see `Console`.
    """
    return LogConsole(began) if chosen_format(log_format) == JSON else Console(began)


class StepProgress:
    """Shows progress bars: called with a step and the share done, 0 to 1 or None; a new step gets a new bar."""

    def __init__(self, console: RichConsole, bars: Progress) -> None:
        self._console = console
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, step: str, share: float | None) -> None:
        """Update the bar of a step."""
        if step not in self._tasks:
            for task in self._tasks.values():
                self._bars.update(task, total=1.0, completed=1.0)
            self._tasks[step] = self._bars.add_task(step, total=None if share is None else 1.0)
            if not self._console.is_terminal:
                self._console.print(f"  {step}", markup=False)
        if share is not None:
            self._bars.update(self._tasks[step], completed=share)
