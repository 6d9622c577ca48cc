"""Reads the query of a URL into a struct."""

from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec

from app.http.requests import AnyRequest
from domain.errors import InvalidRequestError

T = TypeVar("T", bound=msgspec.Struct)


def read_query(request: AnyRequest, query_type: type[T]) -> T:
    """The query's parameters; those that the type does not declare are ignored.

    Raises:
        InvalidRequestError: a value is invalid.
    """
    query: bytes = request.scope["query_string"]
    values = dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))
    known: dict[str, Any] = {}
    for field in msgspec.structs.fields(query_type):
        if field.name not in values:
            continue
        try:
            known[field.name] = msgspec.convert(values[field.name], field.type, strict=False)
        except msgspec.ValidationError as error:
            reason = f"{error}."
            raise InvalidRequestError(
                f"Invalid query parameter '{field.name}': {reason[:1].lower()}{reason[1:200]}",
                param=field.name,
                code="invalid_value",
            ) from None
    return query_type(**known)
