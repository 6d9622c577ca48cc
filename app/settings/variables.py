"""Collects all variables from the structs that hold their values."""

import functools
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar, get_args, get_origin

import msgspec

from app.settings.declaration import Group, Setting, SettingsOfStruct, Variable
from app.settings.groups import ORDER
from app.settings.settings import Settings
from domain.roles import ROLES, RoleInfo

StructT = TypeVar("StructT", bound=msgspec.Struct)
ValueOf = Callable[[Variable], Any]


def build(kind: type[StructT], value_of: ValueOf, info: RoleInfo | None = None) -> StructT:
    """Create a struct of settings, including nested structs.

    Args:
        kind: the struct's type.
        value_of: returns the value of a variable.
        info: the role whose settings the struct contains; None for settings of the whole service.
    """
    values = {field.name: _value(field, value_of, info) for field in _fields(kind)}
    return kind(**{name: value for name, value in values.items() if value is not msgspec.NODEFAULT})


@functools.cache
def _fields(kind: type[msgspec.Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    """The fields of a struct, whose annotations take a while to resolve."""
    return msgspec.structs.fields(kind)


def _value(field: msgspec.structs.FieldInfo, value_of: ValueOf, info: RoleInfo | None) -> Any:
    """The value of one field; NODEFAULT keeps the field's default."""
    kind, mark = _parts(field.type)
    if isinstance(mark, Setting):
        is_declared = info is None or info.role in mark.roles
        return value_of(mark.variable(field.default, info)) if is_declared else msgspec.NODEFAULT
    if isinstance(mark, SettingsOfStruct):
        return kind(**{each.name: _domain_value(each, mark, value_of, info) for each in _fields(kind)})
    if get_origin(kind) is Mapping and issubclass(get_args(kind)[1], msgspec.Struct):
        return {role: build(get_args(kind)[1], value_of, each) for role, each in ROLES.items()}
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return build(kind, value_of, info)
    return msgspec.NODEFAULT


def _domain_value(
    field: msgspec.structs.FieldInfo, struct: SettingsOfStruct, value_of: ValueOf, info: RoleInfo | None
) -> Any:
    kind, meta = _parts(field.type)
    return value_of(struct.setting(field.name, kind, meta).variable(field.default, info))


def _parts(annotation: Any) -> tuple[Any, Any]:
    """The type of a field, and the metadata of its annotation."""
    if get_origin(annotation) is Annotated:
        kind, mark = get_args(annotation)
        return kind, mark
    return annotation, None


def _declared() -> Mapping[Group, tuple[Variable, ...]]:
    found: list[Variable] = []
    # The values don't matter here: this visits every declaration.
    build(Settings, found.append)
    return {group: tuple(variable for variable in found if variable.group == group) for group in ORDER}


GROUPS = _declared()
"""The variables of each group, in the order of the documentation and of reported mistakes."""
VARIABLES = tuple(variable for variables in GROUPS.values() for variable in variables)
