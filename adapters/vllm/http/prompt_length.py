"""Counts the tokens of prompts on a vLLM server, where its own answers do not suffice."""

import msgspec

from adapters.vllm.dialect.context_length import needs_counting, with_count
from adapters.vllm.http.server import VLLMServer
from adapters.vllm.http.tokens import tokenize
from adapters.vllm.http.wire import ServerModel
from domain.conversation import Conversation
from domain.errors import BackendFailedError, ContextLengthError, InvalidRequestError
from domain.port import RequestContext
from domain.requests import GenerationRequest, Prompt, TokenizeRequest


class PromptLength:
    """The lengths of prompts in tokens of one server's model."""

    def __init__(self, server: VLLMServer, model: ServerModel) -> None:
        self._server = server
        self._model = model

    async def check_room(
        self, request: GenerationRequest, prompt: Prompt | Conversation, context: RequestContext
    ) -> None:
        """Raise ContextLengthError if the answer does not fit behind the prompt: the server would shorten it.

        Costs a request to the server, unless the prompt is so short that it fits in any case.
        """
        limit = self._model.max_model_len
        if limit is None or not needs_counting(request, prompt, limit):
            return
        try:
            tokens = await self._count(request, prompt, context)
        except (InvalidRequestError, BackendFailedError):
            # The request itself gets a better error, and a server without `/tokenize` can still generate.
            return
        request.require_room(limit, tokens)

    async def with_count(
        self,
        error: ContextLengthError,
        request: GenerationRequest,
        prompt: Prompt | Conversation,
        context: RequestContext,
    ) -> ContextLengthError:
        """The server's error with the number of the prompt's tokens, if they can be counted."""
        return await with_count(
            error, request, prompt, self._model.max_model_len, lambda: self._count(request, prompt, context)
        )

    async def _count(
        self, request: GenerationRequest, prompt: Prompt | Conversation, context: RequestContext
    ) -> int:
        """The tokens of a prompt as the engine sees it."""
        if isinstance(prompt, list):
            return len(prompt)
        counted = TokenizeRequest(prompt=prompt, add_special_tokens=request.add_special_tokens)
        # A trace has one span for the request to the server, which is the generation's.
        untraced = msgspec.structs.replace(context, trace=None)
        return len((await tokenize(self._server, self._model, counted, untraced)).token_ids)
