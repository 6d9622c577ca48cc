"""What the work on every batch of this process shares."""

import time
from collections.abc import Callable, Mapping
from functools import partial

import msgspec

from app.batches.checks import LineRules
from app.batches.execution import LineExecutor
from app.batches.slots import Slots
from app.http.endpoint import BatchLines
from domain.batches import BatchStore
from domain.catalog import ModelCatalog, ServedModel
from domain.errors import BackendUnavailableError, InferenceError
from domain.files import FileContents, FileStore
from domain.roles import Role


class RunnerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How batches run."""

    max_lines: int
    skips_invalid: bool
    """Whether the valid lines of a batch run although others are invalid."""
    max_line_bytes: int
    allow_unknown: bool = False
    is_strict: bool = False
    """Whether a tolerant endpoint refuses what it does not know."""


class LineCounts:
    """How many lines this process has answered since it began."""

    def __init__(self) -> None:
        self.completed = 0
        self.failed = 0

    def add(self, *, is_error: bool) -> None:
        """Count a line."""
        if is_error:
            self.failed += 1
        else:
            self.completed += 1


class Tools(msgspec.Struct, frozen=True, kw_only=True):
    """The stores, and what runs lines."""

    batches: BatchStore
    files: FileStore
    contents: FileContents
    executor: LineExecutor
    slots: Slots
    catalog: ModelCatalog
    lines: Mapping[str, BatchLines]
    """The endpoints that a batch may name, by their paths."""
    options: RunnerOptions
    counts: LineCounts = msgspec.field(default_factory=LineCounts)
    clock: Callable[[], float] = time.time

    @property
    def now(self) -> int:
        """Unix time in seconds."""
        return int(self.clock())

    def rules(self, path: str, *, are_checked: bool) -> LineRules:
        """What the lines of a batch must be.

        Args:
            path: the batch's endpoint.
            are_checked: whether the lines have been checked before, when the served models were known.
        """
        return LineRules(
            path=path,
            decoder=self.lines[path].decoder,
            require_model=partial(self._may_have_model if are_checked else self._model, path),
            max_line_bytes=self.options.max_line_bytes,
            allow_unknown=self.options.allow_unknown,
            is_strict=self.options.is_strict,
        )

    def role_of(self, path: str, name: str) -> Role | None:
        """The role of the model that a line names; None if there is none of that name, or it is not known yet."""
        try:
            return self._model(path, name).role
        except InferenceError:
            return None

    def _model(self, path: str, name: str) -> ServedModel:
        return self.catalog.resolve(name or None, *self.lines[path].roles, endpoint=path.lstrip("/"))

    def _may_have_model(self, path: str, name: str) -> None:
        try:
            self._model(path, name)
        except BackendUnavailableError:
            # The request itself waits for its engine.
            return
