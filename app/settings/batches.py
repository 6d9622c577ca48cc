"""Settings of batches."""

from typing import Annotated

import msgspec

from app.settings import parsers
from app.settings.groups import FILES


class BatchSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Whether and how batches run."""

    is_on: Annotated[
        bool,
        FILES.setting(
            "BATCHES",
            "Whether batches can be created and run, on or off. They need STATE=on.",
            parsers.parse_on_or_off,
            default="on",
        ),
    ] = True
    max_lines: Annotated[
        int,
        FILES.setting(
            "BATCH_MAX_LINES",
            "Lines that the input file of a batch may have.",
            parsers.parse_positive_int,
        ),
    ] = 50_000
    skips_invalid: Annotated[
        bool,
        FILES.setting(
            "BATCH_ON_INVALID_LINE",
            "What invalid lines do: fail the whole batch, or skip them: their errors are in its error file.",
            parsers.parse_fail_or_skip,
            default="fail",
        ),
    ] = False
    concurrency: Annotated[
        int | None,
        FILES.setting(
            "BATCH_CONCURRENCY",
            "Lines of batches that run or wait at a time, per model; auto for as many as fill its engine.",
            parsers.parse_auto_or_positive_int,
            default="auto",
        ),
    ] = None
    max_unfinished: Annotated[
        int,
        FILES.setting(
            "BATCH_MAX_UNFINISHED",
            "Batches of one API key that have not ended; further ones are rejected with status 429.",
            parsers.parse_positive_int,
        ),
    ] = 100
