"""Configuration: read once, from a mapping, into one immutable struct.

`GROUPS` is the only list of what can be set. `.env.example`, docs/settings.md and the README's table are
printed from it (`python -m app.settings [--page | --readme]`), and tests hold all three against it.
"""

from app.settings.loading import load_settings, unknown_names
from app.settings.parsers import GIB_RULE, is_usable_key, parse_gib
from app.settings.settings import (
    HTTP,
    INPROCESS,
    PREFIX,
    EmbeddingPolicies,
    GpuMemory,
    HttpOptions,
    RoleSettings,
    SecuritySettings,
    Settings,
    TelemetrySettings,
)
from app.settings.variables import GROUPS, VARIABLES

__all__ = [
    "GIB_RULE",
    "GROUPS",
    "HTTP",
    "INPROCESS",
    "PREFIX",
    "VARIABLES",
    "EmbeddingPolicies",
    "GpuMemory",
    "HttpOptions",
    "RoleSettings",
    "SecuritySettings",
    "Settings",
    "TelemetrySettings",
    "is_usable_key",
    "load_settings",
    "parse_gib",
    "unknown_names",
]
