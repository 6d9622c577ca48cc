"""Builds the stores of responses, conversations, files and batches that the settings describe.

Part of the composition root, like `app.engines`.
"""

from adapters.state.provider import StateFacts, StateOptions, Stores, build_state, inspect_state
from app.responses.stored import interrupted
from app.settings import StateSettings


def build_stores(state: StateSettings) -> Stores | None:
    """Build the stores without opening their database; None if nothing is stored.

    Raises:
        ConfigurationError: the database's URL is invalid.
    """
    return build_state(_options(state), interrupted=interrupted)


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
