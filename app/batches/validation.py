"""Validates the input file of a batch: all of its lines, before any of them runs."""

import asyncio
import contextlib
from collections.abc import Sequence

from app.batches.checks import LineChecker, LineRefusedError
from app.batches.lines import Line
from app.batches.reading import read_lines
from app.batches.tools import Tools
from domain.batches import BatchError, StoredBatch
from domain.errors import BackendUnavailableError

MAX_ERRORS = 100
"""Errors of lines that are listed; a further one says how many more there are."""

MODELS_RETRY_S = 2.0
"""Pause before validation begins again, while the served models are not known."""


class Validation:
    """What is known of a file after some of its lines, and at last after all of them."""

    def __init__(self, checker: LineChecker, *, max_lines: int, skips_invalid: bool) -> None:
        """Create it.

        Args:
            checker: checks the lines.
            max_lines: how many there may be.
            skips_invalid: whether lines that can't run are no reason to fail.
        """
        self._checker = checker
        self._max_lines = max_lines
        self._skips_invalid = skips_invalid
        self._models: set[str] = set()
        self._errors: list[BatchError] = []
        self._more_errors = 0
        self._is_too_long = False
        self.total = 0
        """Lines that are not blank."""

    def add(self, lines: Sequence[Line]) -> bool:
        """Check the next lines; return False if no more are needed, because there are too many.

        Raises:
            BackendUnavailableError: the served models are not known yet.
        """
        for line in lines:
            self.total += 1
            if self.total > self._max_lines:
                self._is_too_long = True
                return False
            try:
                request = self._checker.check(line)
            except LineRefusedError as refused:
                self._note(refused.error)
            else:
                # One more than one is enough to know that there are several.
                if len(self._models) < 2:
                    self._models.add(request.model)
        return True

    @property
    def model(self) -> str | None:
        """The model of all lines; None if they name several."""
        return next(iter(self._models)) or None if len(self._models) == 1 else None

    @property
    def errors(self) -> Sequence[BatchError]:
        """Why the batch can't run; empty if it can."""
        if self._is_too_long:
            message = (
                f"The file has more than {self._max_lines} lines. Split it into several files, or raise "
                "BATCH_MAX_LINES."
            )
            return (BatchError(code="too_many_lines", message=message, line=self.total),)
        if not self.total:
            return (
                BatchError(code="empty_file", message="The file has no lines. Write one request into each line."),
            )
        if self._skips_invalid:
            return ()
        if self._more_errors:
            more = BatchError(
                code="too_many_errors",
                message=f"{self._more_errors} more lines can't run. Correct these first.",
            )
            return (*self._errors, more)
        return tuple(self._errors)

    def _note(self, error: BatchError) -> None:
        if len(self._errors) < MAX_ERRORS:
            self._errors.append(error)
        else:
            self._more_errors += 1


async def validate(batch: StoredBatch, tools: Tools, leave: asyncio.Event) -> Validation | None:
    """Validate the input file of a batch; None if `leave` was set meanwhile.

    Raises:
        FileNotFoundError: there is no such file.
    """
    options = tools.options
    while not leave.is_set():
        checker = LineChecker(tools.rules(batch.endpoint, are_checked=False))
        validation = Validation(checker, max_lines=options.max_lines, skips_invalid=options.skips_invalid)
        try:
            async for needs_more in read_lines(
                tools.contents, batch.input_file_id, max_line_bytes=options.max_line_bytes, work=validation.add
            ):
                if leave.is_set() or not needs_more:
                    break
        except BackendUnavailableError:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(MODELS_RETRY_S):
                    await leave.wait()
        else:
            return None if leave.is_set() else validation
    return None
