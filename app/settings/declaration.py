"""Declares settings in the annotations of the struct fields that hold their values.

    port: Annotated[int, SERVICE.setting("PORT", "TCP port to listen on.", parse_port)] = 8200

Names, descriptions and defaults of a role's settings may contain the columns of `domain.roles.ROLES` in braces, as
in `MODEL_{prefix}_NAME`. A struct of the domain declares its descriptions and bounds itself, with `msgspec.Meta`;
the field that holds the struct only defines the names of its variables (`Group.settings`).
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from app.settings.parsers import parser_of
from domain.roles import Role, RoleInfo

Parse = Callable[[str], Any]
"""Parses a value; raises ValueError with a message that says what is allowed."""
Fallback = Callable[[Mapping[str, str]], str]
"""Derives the value of an unset variable from other variables; empty if it can't."""


class Variable(msgspec.Struct, frozen=True, kw_only=True):
    """One environment variable."""

    group: "Group"
    name: str
    default: str
    """The default as text; empty means unset."""
    parse: Parse
    about: str
    """Description, with the unit."""
    is_secret: bool = False
    fallback: Fallback | None = None


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """A group of variables under one heading of the documentation."""

    title: str
    about: str
    """One sentence."""
    guide: str = ""
    """Path of a page with more details."""

    def setting(
        self,
        name: str,
        about: str,
        parse: Parse,
        *,
        default: str | None = None,
        optional_default: str | None = None,
        is_secret: bool = False,
        fallback: Fallback | None = None,
        roles: tuple[Role, ...] = tuple(Role),
    ) -> "Setting":
        """Declare the field as a setting.

        Args:
            name: the variable.
            about: description, with the unit.
            parse: parses the text.
            default: the default as text, if it differs from the text of the field's default.
            optional_default: the default as text for optional roles, if theirs is another one.
            is_secret: whether messages must not contain its value.
            fallback: derives its value from other variables if it is unset.
            roles: the roles that have a role's setting; other roles keep the field's default.
        """
        return Setting(self, name, about, parse, default, optional_default, is_secret, fallback, roles)

    def settings(self, prefix: str, **defaults: str) -> "SettingsOfStruct":
        """Declare all fields of a struct of the domain as settings.

        Args:
            prefix: prefix of the variables' names, followed by the field's name in capitals.
            defaults: defaults as text, for fields without a default.
        """
        return SettingsOfStruct(self, prefix, defaults)


class Setting(msgspec.Struct, frozen=True):
    """The declaration of one setting. See `Group.setting`."""

    group: Group
    name: str
    about: str
    parse: Parse
    default: str | None = None
    optional_default: str | None = None
    is_secret: bool = False
    fallback: Fallback | None = None
    roles: tuple[Role, ...] = tuple(Role)

    def variable(self, field_default: Any, info: RoleInfo | None) -> Variable:
        """The variable of one role, or of the whole service if `info` is None."""
        default = self.default if self.default is not None else _text(field_default)
        if self.optional_default is not None and info is not None and info.is_optional:
            default = self.optional_default
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
    """A default as text."""
    if value in (None, (), msgspec.NODEFAULT):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
