"""The configuration: read once, from a mapping, into an immutable struct.

Each setting is declared on the field that holds it (see `declaration`). `.env.example`, docs/settings.md and the
README's table are generated from the declarations (`python -m tools.settings_documents [--page | --readme]`), and
tests compare all three with them.
"""

from app.settings.api import ApiOptions
from app.settings.batches import BatchSettings
from app.settings.files import FileSettings
from app.settings.loading import load_settings, unknown_names
from app.settings.parsers import GIB_RULE, is_usable_key, parse_gib
from app.settings.roles import RoleSettings
from app.settings.settings import EmbeddingPolicies, SecuritySettings, Settings
from app.settings.state import StateSettings
from app.settings.telemetry import TelemetrySettings
from app.settings.values import HTTP, INPROCESS, OFF
from app.settings.variables import GROUPS, VARIABLES

__all__ = [
    "GIB_RULE",
    "GROUPS",
    "HTTP",
    "INPROCESS",
    "OFF",
    "VARIABLES",
    "ApiOptions",
    "BatchSettings",
    "EmbeddingPolicies",
    "FileSettings",
    "RoleSettings",
    "SecuritySettings",
    "Settings",
    "StateSettings",
    "TelemetrySettings",
    "is_usable_key",
    "load_settings",
    "parse_gib",
    "unknown_names",
]
