"""Rejects structured outputs whose grammar would take minutes to compile.

The engine compiles few grammars at a time and can't cancel a compilation: all other requests with structured
outputs or tools wait for it. Time and memory grow at least quadratically with the number of consecutive optional
parts, and with the common prefix of two long strings. A request that reaches one of these limits took xgrammar
0.2.8 at most ten seconds, on two CPU cores and with a vocabulary of 49,152 tokens.
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
MAX_PROPERTIES_WITH_COUNT = 40

# Operators in a class or in an escape are literal characters.
# The quantifiers are possessive, so that matching takes linear time.
_LITERAL = re.compile(r"\\.|\[(?:\\.|[^\]\\])*+(?:\]|\\?\Z)", re.S)
_QUOTED = re.compile(r'"(?:\\.|[^"\\])*+(?:"|\\?\Z)', re.S)
_OPTIONAL = re.compile(r'(?<!\()[?*]|\{\s*+0*+\s*+,|\(\s*\||\|\s*[|)]|\|\s*$|""')
_RULE = re.compile(r"::=|\n(?=[^\S\n]*+\w++[^\S\n]*+:)")


def check_form(form: StructuredOutputs, param: str) -> None:
    """Check structured outputs, except their schemas, which `normalize_schema` checks.

    Args:
        form: the structured outputs.
        param: the request field that contains them.

    Raises:
        InvalidRequestError: a limit is exceeded.
    """
    if len(msgspec.json.encode(form)) > MAX_FORM_BYTES:
        raise InvalidRequestError(
            f"'{param}' is too large. The maximum is {MAX_FORM_BYTES} bytes.",
            param=param,
            code="string_above_max_length",
        )
    if form.regex is not None:
        _check_regex(form.regex, param)
    if form.grammar is not None:
        _check_grammar(form.grammar, param)
    _check_lengths(form.choice or [], param)


def check_schema(schema: Any, param: str) -> None:
    """Check all parts of a schema that is not normalized, under any keyword.

    Raises:
        InvalidRequestError: a limit is exceeded.
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
    """Check one object of a JSON schema or of a structural tag, without nested objects.

    Raises:
        InvalidRequestError: a limit is exceeded.
    """
    for regex in (part.get("pattern"), *_keys(part.get("patternProperties"))):
        if isinstance(regex, str):
            _check_regex(regex, param)
    if isinstance(grammar := part.get("grammar"), str):
        _check_grammar(grammar, param)
    if isinstance(choices := part.get("enum"), list):
        _check_lengths(choices, param)
    has_count = "minProperties" in part or "maxProperties" in part
    limit = MAX_PROPERTIES_WITH_COUNT if has_count else MAX_PROPERTIES
    if len(_keys(part.get("properties"))) > limit:
        count = " and 'minProperties' or 'maxProperties'" if has_count else ""
        raise _limit_error(f"has an object with more than {limit} properties{count}", param)


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
        raise _limit_error(f"has {of} with more than {MAX_OPTIONAL_PARTS} optional parts", param)


def _check_lengths(choices: list[Any], param: str) -> None:
    if any(isinstance(choice, str) and len(choice) > MAX_CHOICE_LENGTH for choice in choices):
        raise _limit_error(f"has a choice of more than {MAX_CHOICE_LENGTH} characters", param)


def _limit_error(what: str, param: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"'{param}' {what}, which would take too long to compile into a grammar. Please simplify it.",
        param=param,
        code="invalid_value",
    )
