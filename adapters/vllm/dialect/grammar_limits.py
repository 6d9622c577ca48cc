"""Limits of structured outputs, above which the engine would compile a grammar for minutes.

The engine compiles few grammars at a time, and a compilation that has begun can't be stopped: every other request
with structured outputs or tools waits behind it. Time and memory grow at least with the square of the optional
parts in a row, and with the square of the prefix that two long strings share. Each limit, used up once, took
xgrammar 0.2.8 ten seconds at most, on two CPU cores and with a vocabulary of 49,152 tokens.
"""

import re
from typing import Any

import msgspec

from domain.errors import InvalidRequestError
from domain.sampling import StructuredOutputs

MAX_FORM_BYTES = 100_000
MAX_OPTIONAL_PARTS = 32
MAX_CHOICE_LENGTH = 1000
MAX_PROPERTIES = 500
MAX_COUNTED_PROPERTIES = 40

# Operators inside a class, or written as an escape, are literal characters.
# The quantifiers are possessive, so that matching takes time linear in the length of the text.
_LITERAL = re.compile(r"\\.|\[(?:\\.|[^\]\\])*+(?:\]|\\?\Z)", re.S)
_QUOTED = re.compile(r'"(?:\\.|[^"\\])*+(?:"|\\?\Z)', re.S)
_OPTIONAL = re.compile(r'(?<!\()[?*]|\{\s*+0*+\s*+,|\(\s*\||\|\s*[|)]|\|\s*$|""')
_RULE = re.compile(r"::=|\n(?=[^\S\n]*+\w++[^\S\n]*+:)")


def check_form(form: StructuredOutputs, param: str) -> None:
    """Check everything about structured outputs but their schemas, which are checked as they are walked.

    Args:
        form: what the client asks for.
        param: the request field that has it.

    Raises:
        InvalidRequestError: it is above a limit.
    """
    if len(msgspec.json.encode(form)) > MAX_FORM_BYTES:
        raise InvalidRequestError(
            f"'{param}' is too large: at most {MAX_FORM_BYTES} bytes are allowed.",
            param=param,
            code="string_above_max_length",
        )
    if form.regex is not None:
        _check_regex(form.regex, param)
    if form.grammar is not None:
        _check_grammar(form.grammar, param)
    _check_lengths(form.choice or [], param)


def check_schema(schema: Any, param: str) -> None:
    """Check all parts of a schema that is not normalized, whatever keyword they stand behind.

    Raises:
        InvalidRequestError: a part is above a limit.
    """
    parts = [schema]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            check_part(part, param)
            parts += part.values()
        elif isinstance(part, list):
            parts += part


def check_part(part: dict[str, Any], param: str) -> None:
    """Check one object of a JSON schema or of a structural tag, without the objects inside it.

    Raises:
        InvalidRequestError: it is above a limit.
    """
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
