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
    TokenizeRequest,
)
from domain.roles import Role

Operation = Callable[[Any, RequestContext], Awaitable[Any]]


# What a model of each role serves besides tokens.
OWN_REQUEST: Mapping[Role, type[Request[Any]]] = {
    Role.EMBED: EmbeddingRequest,
    Role.GENERATE: GenerationRequest,
}


class Operations:
    """The operations of one backend, by the type of their request."""

    def __init__(
        self,
        role: Role,
        own: Operation,
        *,
        tokenize: Operation,
        detokenize: Operation,
        model: Callable[[], str],
    ) -> None:
        """Make it.

        Args:
            role: the model's role.
            own: the role's operation, which takes a request of the type in `OWN_REQUEST`.
            tokenize: takes a TokenizeRequest.
            detokenize: takes a DetokenizeRequest.
            model: returns the model's name, for error messages.
        """
        self._operations: dict[type[Request[Any]], Operation] = {
            OWN_REQUEST[role]: own,
            TokenizeRequest: tokenize,
            DetokenizeRequest: detokenize,
        }
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
