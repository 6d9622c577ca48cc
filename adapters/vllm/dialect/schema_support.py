"""Normalizes JSON schemas for the engine: rejects what it would ignore and rewrites what it gets wrong.

xgrammar 0.2.8 compiles nearly every schema into a grammar and silently drops what it can't express, so that
answers would violate their schema. How it handles each keyword was found by experiment. String lengths and
expressions are rewritten with the module `pattern`, because the library's own handling may produce invalid JSON.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from adapters.vllm.dialect.grammar_size import check_part
from adapters.vllm.dialect.pattern import PatternError, length_pattern, rewrite_pattern
from domain.errors import InvalidRequestError

# Keywords that constrain values but that the engine ignores.
UNSUPPORTED = frozenset({
    "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies", "multipleOf",
    "uniqueItems", "contains", "minContains", "maxContains", "additionalItems", "$dynamicRef", "$recursiveRef",
})  # fmt: skip
# Keywords by the type that they constrain. In a schema without `type` they imply that type.
KEYWORDS = {
    "object": ("properties", "additionalProperties", "unevaluatedProperties",
               "required", "minProperties", "maxProperties", "propertyNames", "patternProperties"),
    "array": ("items", "prefixItems", "unevaluatedItems", "minItems", "maxItems"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
}  # fmt: skip
# If a schema has one of these, the engine ignores its other keywords.
EXCLUSIVE = ("$ref", "const", "enum", "anyOf", "oneOf", "allOf")
CONSTRAINTS = frozenset(EXCLUSIVE) | {keyword for keywords in KEYWORDS.values() for keyword in keywords}
# Keywords whose value is a map of schemas, a list, or a single schema; `items` takes one or a list.
SCHEMAS_BY_NAME = frozenset({"properties", "patternProperties", "$defs", "definitions"})
SCHEMA_LISTS = frozenset({"anyOf", "oneOf", "allOf", "prefixItems", "items"})
SINGLE_SCHEMAS = frozenset({
    "additionalProperties", "unevaluatedProperties", "propertyNames", "items", "unevaluatedItems",
})  # fmt: skip
TYPES = frozenset({"object", "array", "string", "integer", "number", "boolean", "null"})

_DAY = (
    r"(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    r"|02-(?:0[1-9]|1[0-9]|2[0-8]))|(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29)"
)
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]+)?(?:Z|[+\-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_BYTE = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9][0-9]|[0-9])"
_POINTER = r"(?:/(?:[^/~]|~[01])*)*"
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?"
# The formats that the engine supports; with an expression where its own is too lax and allows 30 February,
# 01.2.3.4, or characters that JSON has to escape.
FORMATS = {
    "email": rf"^{_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})+$",
    "date": f"^{_DAY}$",
    "date-time": f"^{_DAY}T{_TIME}$",
    "ipv4": rf"^(?:{_BYTE}\.){{3}}{_BYTE}$",
    "json-pointer": f"^{_POINTER}$",
    "relative-json-pointer": f"^(?:0|[1-9][0-9]*)(?:#|{_POINTER})$",
} | dict.fromkeys(
    ("time", "duration", "ipv6", "hostname", "uuid", "uri", "uri-reference", "uri-template")
)  # fmt: skip

_FORMAT_PATTERNS = {name: rewrite_pattern(pattern) for name, pattern in FORMATS.items() if pattern is not None}

# Formats that do not constrain the string.
UNCONSTRAINED_FORMATS = ("password", "binary")

MAX_COMPARISONS = 5_000
MAX_DEPTH = 6
"""Maximum depth to which branches are compared, through references and properties."""


def normalize_schema(schema: Any, param: str) -> Any:
    """Return a copy of a schema rewritten to supported keywords; it allows the same values or fewer.

    Visits every subschema once, to check its limits and keywords and to rewrite it.

    Args:
        schema: decoded JSON; not modified.
        param: the request field that contains it.

    Raises:
        InvalidRequestError: the engine would ignore a part of it, or take too long to compile it.
    """
    return _Schema(schema, param).normalized()


def normalize_if_possible(schema: Any) -> Any:
    """The normalized schema, or the unchanged schema if the engine does not support all of it."""
    try:
        return normalize_schema(schema, "tools")
    except InvalidRequestError:
        return schema


def normalize_tag(tag: Any, param: str) -> None:
    """Normalize the schemas in a structural tag in place, in xgrammar's current or its older format.

    Args:
        tag: decoded JSON.
        param: the request field that contains it.

    Raises:
        InvalidRequestError: as `normalize_schema`, for any part of the tag.
    """
    parts = [tag]
    while parts:
        part = parts.pop()
        if isinstance(part, list):
            parts += part
        elif isinstance(part, dict):
            check_part(part, param)
            # Parts of the older format have no type, and call the schema `schema`.
            name = "json_schema" if part.get("type") == "json_schema" else "schema" if "type" not in part else None
            if name in part:
                part[name] = normalize_schema(part[name], param)
            parts += [item for key, item in part.items() if key != name]


class _Schema:
    """Normalizes one schema."""

    def __init__(self, schema: Any, param: str) -> None:
        # A deep copy of dicts and lists, many times faster than `copy.deepcopy`.
        self._root = msgspec.to_builtins(schema)
        self._param = param
        self._seen: set[int] = set()
        self._comparisons = 0

    def normalized(self) -> Any:
        """Return the rewritten copy; call it once."""
        waiting = [self._root]
        while waiting:
            part = waiting.pop()
            if not isinstance(part, dict) or id(part) in self._seen:
                continue
            self._seen.add(id(part))
            check_part(part, self._param)
            self._check(part)
            waiting += _subschemas(part)
            if "$ref" in part:
                waiting.append(self._target(part["$ref"]))
            _rewrite(part)
        return self._root

    def _check(self, part: dict[str, Any]) -> None:
        for keyword in sorted(UNSUPPORTED & part.keys()):
            # `false` is the default.
            if not (keyword == "uniqueItems" and part[keyword] is False):
                raise self._refusal(f"uses '{keyword}', which the engine does not support")
        if "$id" in part and part is not self._root:
            raise self._refusal("has an '$id' below its root, which the engine does not support")
        exclusive = [keyword for keyword in EXCLUSIVE if keyword in part]
        if exclusive:
            self._check_exclusive(part, exclusive[0])
        else:
            self._check_type(part)

    def _check_exclusive(self, part: dict[str, Any], keyword: str) -> None:
        others = sorted((CONSTRAINTS & part.keys()) - {keyword})
        if others:
            raise self._refusal(f"combines '{keyword}' with '{others[0]}', which the engine does not support")
        branches = part[keyword]
        if keyword in ("anyOf", "oneOf", "allOf"):
            if not isinstance(branches, list) or not branches:
                raise self._refusal(f"has '{keyword}' without branches")
            if keyword == "allOf" and len(branches) > 1:
                raise self._refusal("has 'allOf' with several branches, which the engine does not support")
            if keyword == "oneOf" and not self._are_disjoint(branches):
                raise self._refusal(
                    "has 'oneOf' with branches that may overlap; use 'anyOf', or distinguish them by a constant"
                )
        if "type" in part and not self._types({keyword: branches}) <= _type_names(part["type"]):
            raise self._refusal(f"has a 'type' that contradicts its '{keyword}'")

    def _check_type(self, part: dict[str, Any]) -> None:
        if "type" not in part:
            implied = _implied_types(part)
            if len(implied) > 1:
                raise self._refusal(
                    f"needs a 'type', because it has '{_first_keyword(part, implied[0])}' and "
                    f"'{_first_keyword(part, implied[1])}'"
                )
            if implied:
                part["type"] = implied[0]
        elif not _type_names(part["type"]):
            raise self._refusal("has a 'type' without a type name")
        kinds = _type_names(part.get("type"))
        if "object" in kinds:
            self._check_object(part)
        if "string" in kinds:
            self._check_string(part)

    def _check_object(self, part: dict[str, Any]) -> None:
        properties = part.get("properties", {})
        required = part.get("required", [])
        if isinstance(properties, dict) and isinstance(required, list):
            for name in required:
                if isinstance(name, str) and name not in properties:
                    raise self._refusal(f"requires {_quoted(name)}, which is not in its 'properties'")
        patterns = part.get("patternProperties")
        if isinstance(patterns, dict) and ("properties" in part or "propertyNames" in part or len(patterns) > 1):
            raise self._refusal("combines 'patternProperties' with other rules, which the engine does not support")
        if "propertyNames" in part and "properties" in part:
            raise self._refusal("combines 'propertyNames' with 'properties', which the engine does not support")
        if isinstance(patterns, dict):
            part["patternProperties"] = {self._pattern(key): value for key, value in patterns.items()}

    def _check_string(self, part: dict[str, Any]) -> None:
        if part.get("format") in UNCONSTRAINED_FORMATS:
            del part["format"]
        limits = [part.get(keyword, 0) for keyword in ("minLength", "maxLength")]
        if not all(isinstance(limit, int) and not isinstance(limit, bool) and limit >= 0 for limit in limits):
            raise self._refusal("has a length that is not a non-negative integer")
        if "maxLength" in part and limits[0] > limits[1]:
            raise self._refusal("has a 'minLength' above its 'maxLength'")
        rules = [keyword for keyword in ("pattern", "format") if keyword in part]
        if rules and (len(rules) > 1 or "minLength" in part or "maxLength" in part):
            raise self._refusal(
                f"has '{rules[0]}' combined with another string constraint, which the engine does not support"
            )
        if isinstance(part.get("pattern"), str):
            part["pattern"] = self._pattern(part["pattern"])
        if isinstance(form := part.get("format"), str) and form not in FORMATS:
            raise self._refusal(f"has the format {_quoted(form)}, which the engine does not support")

    def _pattern(self, pattern: str) -> str:
        try:
            return rewrite_pattern(pattern)
        except PatternError as error:
            raise self._refusal(f"has a pattern {error}, which the engine does not support") from None

    def _target(self, reference: Any) -> Any:
        """Resolve a reference."""
        found = self._root
        path = reference.split("/") if isinstance(reference, str) else [""]
        if path[0] != "#" or "~" in reference or "%" in reference:
            raise self._refusal("has a '$ref' that does not point into the same schema, as '#/$defs/name' does")
        for name in path[1:]:
            if not isinstance(found, dict) or name not in found:
                raise self._refusal("has a '$ref' to a part that does not exist")
            found = found[name]
        return found

    def _are_disjoint(self, branches: list[Any]) -> bool:
        """Whether no value can match two branches; False if a simple comparison can't show it."""
        return all(
            self._exclude_each_other(one, other, MAX_DEPTH)
            for position, one in enumerate(branches)
            for other in branches[:position]
        )

    def _exclude_each_other(self, one: Any, other: Any, depth: int) -> bool:
        self._comparisons += 1
        if self._comparisons > MAX_COMPARISONS:
            raise self._refusal("has 'oneOf' with too many branches; use 'anyOf'")
        one, other = self._resolved(one), self._resolved(other)
        if not isinstance(one, dict) or not isinstance(other, dict) or depth == 0:
            return False
        values, others = _values(one), _values(other)
        if values is not None and others is not None:
            return not values & others
        types, other_types = self._types(one), self._types(other)
        if not types & other_types:
            return True
        if not types & other_types <= {"object"}:
            return False
        shared = _required(one) & _required(other)
        return any(
            self._exclude_each_other(one["properties"][name], other["properties"][name], depth - 1)
            for name in shared
        )

    def _resolved(self, part: Any) -> Any:
        for _ in range(MAX_DEPTH):
            if not isinstance(part, dict) or "$ref" not in part:
                break
            part = self._target(part["$ref"])
        return part

    def _types(self, part: Any, *, depth: int = MAX_DEPTH) -> frozenset[str]:
        """The types of the values that a schema allows. "number" stands for non-integer numbers."""
        part = self._resolved(part)
        if not isinstance(part, dict) or depth == 0:
            return TYPES
        values = [part["const"]] if "const" in part else part.get("enum")
        if isinstance(values, list):
            return frozenset(map(_type_of, values))
        for keyword in ("anyOf", "oneOf", "allOf"):
            if isinstance(branches := part.get(keyword), list):
                self._comparisons += len(branches)
                if self._comparisons > MAX_COMPARISONS:
                    return TYPES
                return frozenset().union(*(self._types(branch, depth=depth - 1) for branch in branches))
        if "type" in part:
            return _type_names(part["type"])
        implied = _implied_types(part)
        return _type_names(implied) if len(implied) == 1 else TYPES

    def _refusal(self, what: str) -> InvalidRequestError:
        return InvalidRequestError(
            f"The schema in '{self._param}' {what}.", param=self._param, code="invalid_value"
        )


def _subschemas(part: dict[str, Any]) -> Iterator[Any]:
    """The direct subschemas of a schema."""
    for keyword, value in part.items():
        if keyword in SCHEMAS_BY_NAME and isinstance(value, dict):
            yield from value.values()
        elif keyword in SCHEMA_LISTS and isinstance(value, list):
            yield from value
        elif keyword in SINGLE_SCHEMAS:
            yield value


def _rewrite(part: dict[str, Any]) -> None:
    """Replace lengths and formats by expressions whose matches are valid JSON."""
    if "oneOf" in part:
        # The branches are known to be disjoint. The engine would not check that, but warn.
        part["anyOf"] = part.pop("oneOf")
    if "string" not in _type_names(part.get("type")):
        return
    minimum, maximum = part.pop("minLength", 0), part.pop("maxLength", None)
    if minimum or maximum is not None:
        part["pattern"] = length_pattern(minimum, maximum)
    if isinstance(form := part.get("format"), str) and (pattern := _FORMAT_PATTERNS.get(form)):
        del part["format"]
        part["pattern"] = pattern


def _type_names(kinds: Any) -> frozenset[str]:
    """The type names in the value of `type`; "number" includes "integer"."""
    listed = kinds if isinstance(kinds, list) else [kinds]
    named = frozenset(kind for kind in listed if isinstance(kind, str))
    return named | {"integer"} if "number" in named else named


def _implied_types(part: dict[str, Any]) -> list[str]:
    """The types that the keywords of a schema imply."""
    return [kind for kind, keywords in KEYWORDS.items() if any(keyword in part for keyword in keywords)]


def _first_keyword(part: dict[str, Any], kind: str) -> str:
    return next(keyword for keyword in KEYWORDS[kind] if keyword in part)


def _required(part: dict[str, Any]) -> set[str]:
    """The names of the required properties that have a schema."""
    properties, required = part.get("properties"), part.get("required")
    if not isinstance(properties, dict) or not isinstance(required, list):
        return set()
    return {name for name in required if isinstance(name, str) and name in properties}


def _values(part: dict[str, Any]) -> set[bytes] | None:
    """The encoded values that a schema enumerates; None if it does not enumerate them."""
    values = [part["const"]] if "const" in part else part.get("enum")
    return {msgspec.json.encode(value, order="sorted") for value in values} if isinstance(values, list) else None


def _type_of(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return "integer"
    names: dict[type, str] = {float: "number", str: "string", list: "array"}
    return names.get(type(value), "object")


def _quoted(value: str) -> str:
    return f"'{value[:100]}'"
