"""How a setting is declared: once, in the annotation of the struct field that holds its value.

    port: Annotated[int, SERVICE.setting("PORT", "TCP port to listen on.", parse_port)] = 8200

Names, sentences and defaults of a role's settings may contain the columns of `domain.roles.ROLES` in braces, as
in `MODEL_{prefix}_NAME`. A struct of the domain declares its sentences and bounds itself, with `msgspec.Meta`;
the field that holds it only says how its variables are named (`Group.settings`).
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from app.settings.parsers import parser_of
from domain.roles import Role, RoleInfo

Parse = Callable[[str], Any]
"""Raises ValueError with a sentence that says what is allowed."""
Fallback = Callable[[Mapping[str, str]], str]
"""The text of a variable that is unset, taken from other variables; empty if they say nothing."""


class Variable(msgspec.Struct, frozen=True, kw_only=True):
    """One environment variable."""

    group: "Group"
    name: str
    default: str
    """As it would be written; empty means unset."""
    parse: Parse
    about: str
    """What it is for, with its unit."""
    is_secret: bool = False
    fallback: Fallback | None = None


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """A heading of the documentation, under which variables are listed."""

    title: str
    about: str
    """One sentence."""
    guide: str = ""
    """Page that says more, as a path in the project."""

    def setting(
        self,
        name: str,
        about: str,
        parse: Parse,
        *,
        default: str | None = None,
        is_secret: bool = False,
        fallback: Fallback | None = None,
        roles: tuple[Role, ...] = tuple(Role),
    ) -> "Setting":
        """Declare the field as a setting.

        Args:
            name: the variable.
            about: what it is for, with its unit.
            parse: takes what is written.
            default: how the default is written, where that is not the field's default as text.
            is_secret: whether its value must not be repeated in messages.
            fallback: finds its text in other variables if it is unset.
            roles: of a role's settings, the roles that have it; other roles keep the field's default.
        """
        return Setting(self, name, about, parse, default, is_secret, fallback, roles)

    def settings(self, prefix: str, **defaults: str) -> "SettingsOfStruct":
        """Declare all fields of a struct of the domain as settings.

        Args:
            prefix: precedes the field's name, in capitals, in the name of the variable.
            defaults: how the defaults of fields are written that have none of their own.
        """
        return SettingsOfStruct(self, prefix, defaults)


class Setting(msgspec.Struct, frozen=True):
    """The declaration of one setting. See `Group.setting`."""

    group: Group
    name: str
    about: str
    parse: Parse
    default: str | None = None
    is_secret: bool = False
    fallback: Fallback | None = None
    roles: tuple[Role, ...] = tuple(Role)

    def variable(self, field_default: Any, info: RoleInfo | None) -> Variable:
        """The variable of one role, or of the whole service if `info` is None."""
        default = self.default if self.default is not None else _text(field_default)
        return Variable(
            group=self.group,
            name=_expand(self.name, info),
            default=_expand(default, info),
            parse=self.parse,
            about=_expand(self.about, info),
            is_secret=self.is_secret,
            fallback=self.fallback,
        )


class SettingsOfStruct(msgspec.Struct, frozen=True):
    """The declaration of all settings in a struct of the domain. See `Group.settings`."""

    group: Group
    prefix: str
    defaults: Mapping[str, str]

    def setting(self, name: str, kind: type, meta: msgspec.Meta) -> Setting:
        """The declaration of one field, from its type and its `msgspec.Meta`."""
        return Setting(
            self.group,
            self.prefix + name.upper(),
            meta.description or "",
            parser_of(kind, meta),
            self.defaults.get(name),
        )


def _expand(text: str, info: RoleInfo | None) -> str:
    return text.format_map(msgspec.structs.asdict(info)) if info is not None else text


def _text(value: Any) -> str:
    """A default as it would be written."""
    if value in (None, (), msgspec.NODEFAULT):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
