"""Settings of files."""

from typing import Annotated

import msgspec

from app.settings import parsers
from app.settings.groups import FILES


class FileSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How much may be uploaded."""

    max_bytes: Annotated[
        int,
        FILES.setting(
            "FILES_MAX_SIZE",
            "Largest file that may be uploaded, in bytes or as 200MiB; larger ones are rejected with status 413.",
            parsers.parse_size,
            default="200MiB",
        ),
    ] = 200 * 2**20
    max_total_bytes: Annotated[
        int,
        FILES.setting(
            "FILES_MAX_TOTAL_SIZE",
            "Largest size of all files of all keys together, in bytes or as 10GiB; uploads beyond it are rejected"
            " with status 507.",
            parsers.parse_size,
            default="10GiB",
        ),
    ] = 10 * 2**30
