"""What a form of the text may hold, so that the engine does not make a grammar of it for minutes.

The engine makes few grammars at a time, and one that it has begun can't be stopped: every other request with a
form, or with tools, waits behind it. Time and memory grow with the square, at least, of the parts in a row that
may be left out, and with the square of the beginning that two long texts share. Each limit, used up once, took
xgrammar 0.2.8 ten seconds at most, on two CPU cores and with a vocabulary of 49,152 tokens.
"""

import re
from typing import Any

import msgspec

from domain.errors import InvalidRequestError
from domain.sampling import StructuredOutputs

MAX_OPTIONAL_PARTS = 32
MAX_CHOICE_LENGTH = 1000
MAX_PROPERTIES = 500
MAX_COUNTED_PROPERTIES = 40

# What is written out, in a class or as an escape, is no operator.
# No repetition gives back what it has taken: a look at a text must take no longer than the text is long.
_LITERAL = re.compile(r"\\.|\[(?:\\.|[^\]\\])*+(?:\]|\\?\Z)", re.S)
_QUOTED = re.compile(r'"(?:\\.|[^"\\])*+(?:"|\\?\Z)', re.S)
_OPTIONAL = re.compile(r'(?<!\()[?*]|\{\s*+0*+\s*+,|\(\s*\||\|\s*[|)]|\|\s*$|""')
_RULE = re.compile(r"::=|\n(?=[^\S\n]*+\w++[^\S\n]*+:)")


def check_form(form: StructuredOutputs, param: str) -> None:
    """Raise InvalidRequestError for a form that would keep the engine for long.

    Args:
        form: what the client asks for.
        param: the request field that asks for it.
    """
    if form.regex is not None:
        _check_regex(form.regex, param)
    if form.grammar is not None:
        _check_grammar(form.grammar, param)
    _check_lengths(form.choice or [], param)
    for schema in (form.json, form.structural_tag):
        check_schema(decoded(schema), param)


def check_schema(schema: Any, param: str) -> None:
    """The same for a JSON schema, or a structural tag with schemas in it."""
    parts = [schema]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            _check_part(part, param)
            parts += part.values()
        elif isinstance(part, list):
            parts += part


def decoded(schema: Any) -> Any:
    """A schema that may be given as text, or None for a text that is no JSON."""
    if not isinstance(schema, str):
        return schema
    try:
        return msgspec.json.decode(schema)
    except (msgspec.DecodeError, RecursionError):
        # The engine says what is wrong with it.
        return None


def _check_part(part: dict[str, Any], param: str) -> None:
    for regex in (part.get("pattern"), *_keys(part.get("patternProperties"))):
        if isinstance(regex, str):
            _check_regex(regex, param)
    if isinstance(grammar := part.get("grammar"), str):
        _check_grammar(grammar, param)
    if isinstance(choices := part.get("enum"), list):
        _check_lengths(choices, param)
    counted = "minProperties" in part or "maxProperties" in part
    limit = MAX_COUNTED_PROPERTIES if counted else MAX_PROPERTIES
    if len(_keys(part.get("properties"))) > limit:
        beside = " beside 'minProperties' or 'maxProperties'" if counted else ""
        raise _refusal(f"has an object with more than {limit} properties{beside}", param)


def _keys(value: Any) -> list[str]:
    return list(value) if isinstance(value, dict) else []


def _check_regex(regex: str, param: str) -> None:
    _check_optional_parts(_LITERAL.sub("x", regex), "an expression", param)


def _check_grammar(grammar: str, param: str) -> None:
    unquoted = _QUOTED.sub(lambda quoted: quoted[0] if quoted[0] == '""' else "x", grammar)
    for rule in _RULE.split(_LITERAL.sub("x", unquoted)):
        _check_optional_parts(rule, "a rule", param)


def _check_optional_parts(text: str, of: str, param: str) -> None:
    if len(_OPTIONAL.findall(text)) > MAX_OPTIONAL_PARTS:
        raise _refusal(f"has {of} with more than {MAX_OPTIONAL_PARTS} parts that may be left out", param)


def _check_lengths(choices: list[Any], param: str) -> None:
    if any(isinstance(choice, str) and len(choice) > MAX_CHOICE_LENGTH for choice in choices):
        raise _refusal(f"offers a choice of more than {MAX_CHOICE_LENGTH} characters", param)


def _refusal(what: str, param: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"'{param}' {what}, of which the engine would not have a grammar in time. Please simplify it.",
        param=param,
        code="invalid_value",
    )
