"""Builds the stores of responses, conversations, files and batches that the settings describe.

Files have their contents in a folder, whatever the database. Part of the composition root, like `app.engines`.
"""

from adapters.files.contents import DiskContents
from adapters.state.provider import StateFacts, StateOptions, Stores, build_state, inspect_state
from app.files.service import FilesService
from app.responses.stored import interrupted
from app.settings import FileSettings, StateSettings

FILES_FOLDER = "files"
"""In MEMORIA_DATA_DIR."""


def build_stores(state: StateSettings) -> Stores | None:
    """Build the stores without opening their database; None if nothing is stored.

    Raises:
        ConfigurationError: the database's URL is invalid.
    """
    return build_state(_options(state), interrupted=interrupted)


def build_files(stores: Stores, files: FileSettings, state: StateSettings) -> FilesService:
    """Build the Files API's service without touching the disk."""
    return FilesService(
        stores.files,
        stores.batches,
        DiskContents(state.data_dir / FILES_FOLDER),
        max_bytes=files.max_bytes,
        max_total_bytes=files.max_total_bytes,
    )


def inspect_store(state: StateSettings) -> StateFacts | None:
    """Look at the database without changing it; None if nothing is stored. Blocks.

    Raises:
        ConfigurationError: the service could not use it.
    """
    return inspect_state(_options(state))


def _options(state: StateSettings) -> StateOptions:
    return StateOptions(
        is_on=state.is_on,
        folder=state.data_dir,
        database=state.database,
        max_age_days=state.max_age_days,
        max_bytes=state.max_bytes,
    )
