"""What the work on every batch of this process shares."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from app.batches.checks import LineRules
from app.batches.execution import LineExecutor
from app.batches.slots import Slots
from app.http.codec import BodyDecoder
from domain.batches import BatchStore
from domain.catalog import ModelCatalog
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


class Tools(msgspec.Struct, frozen=True, kw_only=True):
    """The stores, and what runs lines."""

    batches: BatchStore
    files: FileStore
    contents: FileContents
    executor: LineExecutor
    slots: Slots
    catalog: ModelCatalog
    decoders: Mapping[str, BodyDecoder[Any]]
    """The decoders of the endpoints that a batch may name, by their paths."""
    options: RunnerOptions
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
            decoder=self.decoders[path],
            require_model=self._may_have_model if are_checked else self._require_model,
            max_line_bytes=self.options.max_line_bytes,
            allow_unknown=self.options.allow_unknown,
            is_strict=self.options.is_strict,
        )

    def _require_model(self, name: str) -> None:
        self.catalog.find(name or None)

    def _may_have_model(self, name: str) -> None:
        try:
            self._require_model(name)
        except BackendUnavailableError:
            # The request itself waits for its engine.
            return


def role_of(catalog: ModelCatalog, name: str) -> Role | None:
    """The role of the model of a name, or of none; None if there is none of that name, or it is not known yet."""
    try:
        return catalog.find(name or None).role
    except InferenceError:
        return None
