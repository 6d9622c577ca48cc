"""Dispatches requests to the method that serves them, for both vLLM backends."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

from domain.errors import WrongEndpointError
from domain.port import RequestContext
from domain.requests import (
    DetokenizeRequest,
    EmbeddingRequest,
    GenerationRequest,
    Request,
    ResultT,
    ScoreRequest,
    TokenizeRequest,
)
from domain.roles import Role

Operation = Callable[[Any, RequestContext], Awaitable[Any]]

SERVED: Mapping[Role, frozenset[type[Request[Any]]]] = {
    Role.EMBED: frozenset({EmbeddingRequest, TokenizeRequest, DetokenizeRequest}),
    Role.RERANK: frozenset({ScoreRequest, TokenizeRequest, DetokenizeRequest}),
    Role.GENERATE: frozenset({GenerationRequest, TokenizeRequest, DetokenizeRequest}),
}
"""The types of requests that a model of each role serves."""


class Operations:
    """The operations of one backend, by the type of their request."""

    def __init__(
        self, role: Role, operations: Mapping[type[Request[Any]], Operation], *, model: Callable[[], str]
    ) -> None:
        """Make it.

        Args:
            role: the model's role, which decides what it serves.
            operations: the adapter's method for each type of request, those of other roles included.
            model: returns the model's name, for error messages.
        """
        self._operations = {kind: operations[kind] for kind in SERVED[role]}
        self._model = model

    async def call(self, request: Request[ResultT], context: RequestContext) -> ResultT:
        """The operation's result.

        Raises:
            WrongEndpointError: the backend does not serve this type of request.
        """
        operation = self._operations.get(type(request))
        if operation is None:
            raise self._unsupported(request)
        return cast(ResultT, await operation(request, context))

    def require_generation(self, request: GenerationRequest) -> None:
        """Raise WrongEndpointError if the backend does not generate."""
        if GenerationRequest not in self._operations:
            raise self._unsupported(request)

    def _unsupported(self, request: Request[Any]) -> WrongEndpointError:
        return WrongEndpointError(f"The model '{self._model()}' can't {request.operation}.", param="model")
