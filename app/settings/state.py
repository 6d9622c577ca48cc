"""Settings of stored responses and conversations."""

from pathlib import Path
from typing import Annotated

import msgspec

from app.settings import parsers
from app.settings.groups import STATE


class StateSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Whether, where and how long responses and conversations are kept."""

    is_on: Annotated[
        bool,
        STATE.setting(
            "STATE",
            "Whether responses, conversations, files and batches are kept, on or off. If off, requests that need"
            " one fail.",
            parsers.parse_on_or_off,
            default="on",
        ),
    ] = True
    database: Annotated[
        str | None,
        STATE.setting(
            "STATE_DATABASE",
            "Database for them, as sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME. If unset, a file in"
            " MEMORIA_DATA_DIR.",
            parsers.parse_database,
            is_secret=True,
        ),
    ] = None
    data_dir: Annotated[
        Path,
        STATE.setting(
            "MEMORIA_DATA_DIR",
            "Folder for the database and for files. If unset, memoria-vllm in the user's data folder.",
            parsers.parse_data_folder,
            default="",
        ),
    ]
    max_age_days: Annotated[
        int,
        STATE.setting(
            "STATE_MAX_AGE_DAYS",
            "Days after which responses, batches that have ended, and conversations that are not used are removed;"
            " 0 for no limit.",
            parsers.parse_days,
        ),
    ] = 30
    max_bytes: Annotated[
        int,
        STATE.setting(
            "STATE_MAX_SIZE",
            "Largest size of the database, in bytes or as 256MiB; the oldest are removed first. 0 for no limit.",
            parsers.parse_bytes,
            default="1GiB",
        ),
    ] = 2**30

    def __repr__(self) -> str:
        """A representation without the URL, which may contain a password."""
        return f"StateSettings(is_on={self.is_on})"
