"""Shows the progress of an upload and of a batch."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from app.commands.batch.client import RemoteBatch
from app.commands.console import Console


class LineSpeedColumn(ProgressColumn):
    """Lines per second."""

    def render(self, task: Task) -> Text:
        """The speed of the last half minute."""
        return Text(f"{task.speed:.1f} lines/s" if task.speed else "", style="progress.data.speed")


class BatchProgress:
    """Progress bars on a console."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def upload(self, file: Path) -> Generator[Callable[[int], None], None, None]:
        """A bar for the bytes of a file; yields what sets it."""
        size = file.stat().st_size if file.is_file() else None
        columns = (TextColumn("  {task.description:<12}"), BarColumn(28), DownloadColumn(), TransferSpeedColumn())
        with self._console.bars(*columns) as bars:
            task = bars.add_task("uploading", total=size)
            yield lambda sent: bars.update(task, completed=sent)

    @contextmanager
    def lines(self) -> Generator[Callable[[RemoteBatch], None], None, None]:
        """A bar for the lines of a batch; yields what sets it."""
        columns = (
            TextColumn("  {task.description:<12}"),
            BarColumn(28),
            MofNCompleteColumn(),
            LineSpeedColumn(),
            TimeRemainingColumn(),
        )
        with self._console.bars(*columns) as bars:
            task = bars.add_task("validating", total=None)

            def show(batch: RemoteBatch) -> None:
                counts = batch.request_counts
                bars.update(
                    task,
                    description=batch.status,
                    total=counts.total or None,
                    completed=counts.completed + counts.failed,
                )

            yield show
