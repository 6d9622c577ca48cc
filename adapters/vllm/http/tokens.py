"""Tokenizes and detokenizes on a vLLM server."""

from adapters.vllm.http.errors import translate_errors
from adapters.vllm.http.server import RequestInfo, VLLMServer
from adapters.vllm.http.translate import tokenize_body
from adapters.vllm.http.wire import ServerModel, ServerText, ServerTokens, text_decoder, tokens_decoder
from domain.port import RequestContext
from domain.requests import DetokenizeRequest, TokenizeRequest
from domain.results import Tokenization


async def tokenize(
    server: VLLMServer, model: ServerModel, request: TokenizeRequest, context: RequestContext
) -> Tokenization:
    """Tokenize a text or a conversation.

    Raises:
        InferenceError: the server returned an error or can't be reached.
    """
    param = "prompt" if isinstance(request.prompt, str) else "messages"
    content = await server.post("/tokenize", tokenize_body(request, model=model.id), context, RequestInfo(param))
    with translate_errors(server.name):
        found: ServerTokens = tokens_decoder.decode(content)
    return Tokenization(token_ids=found.tokens, strings=found.token_strs)


async def detokenize(
    server: VLLMServer, model: ServerModel, request: DetokenizeRequest, context: RequestContext
) -> str:
    """Decode tokens into text.

    Raises:
        InferenceError: the server returned an error or can't be reached.
    """
    body = {"model": model.id, "tokens": request.token_ids}
    content = await server.post("/detokenize", body, context, RequestInfo("tokens"))
    with translate_errors(server.name):
        found: ServerText = text_decoder.decode(content)
    return found.prompt
