"""Validates generation requests against vLLM's limits and normalizes their schemas.

Both adapters call `prepare` first, so no later step checks or normalizes a schema again.
"""

from typing import Any

import msgspec

from adapters.vllm.dialect.grammar_size import check_form, check_schema
from adapters.vllm.dialect.schema_support import normalize_schema, normalize_tag
from domain.conversation import FORCED, Conversation, Function
from domain.errors import InvalidRequestError
from domain.openai.nesting import check_json
from domain.requests import GenerationRequest
from domain.sampling import StructuredOutputs

MAX_BAD_WORDS = 128
"""vLLM's own limit (`VLLM_MAX_NUM_BAD_WORDS`)."""


def prepare(request: GenerationRequest) -> GenerationRequest:
    """Return the request with its schemas rewritten to keywords that the engine supports.

    Those are the schemas of structured outputs and the parameters of strict tools. If a call is forced, the other
    tools become strict where their schemas are supported; otherwise those are checked for size only. The argument
    is not modified; without schemas it is returned.

    Raises:
        InvalidRequestError: the engine does not support a part of the request, or would take too long to compile a
            grammar of it. `param` is the client's field, from `sampling.structured_outputs_param` or
            `Conversation.tool_params`.
    """
    try:
        return _prepare(request)
    except InvalidRequestError as error:
        error.has_reached_engine = False
        raise


def _prepare(request: GenerationRequest) -> GenerationRequest:
    sampling, prompt = request.sampling, request.prompt
    if isinstance(prompt, Conversation) and prompt.tools:
        request = msgspec.structs.replace(request, prompt=_prepare_tools(prompt))
    if sampling.structured_outputs is not None:
        form = _prepare_structured_outputs(sampling.structured_outputs, sampling.structured_outputs_param)
        request = msgspec.structs.replace(
            request, sampling=msgspec.structs.replace(sampling, structured_outputs=form)
        )
    if sampling.bad_words is not None:
        _check_bad_words(sampling.bad_words)
    return request


_latest: list[tuple[StructuredOutputs, StructuredOutputs]] = []
"""The latest structured outputs, and what they became."""


def _prepare_structured_outputs(form: StructuredOutputs, param: str) -> StructuredOutputs:
    """The form with its schemas rewritten.

    All prompts of a completion request share one form, and a large schema takes many milliseconds: only the first
    prompt pays for it.
    """
    for known, prepared in _latest:
        if known is form:
            return prepared
    prepared = _prepare_form(form, param)
    _latest[:] = [(form, prepared)]
    return prepared


def _prepare_tools(conversation: Conversation) -> Conversation:
    params = conversation.tool_params or [
        f"tools[{position}].function.parameters" for position in range(len(conversation.tools))
    ]
    is_forced = conversation.tool_choice in FORCED
    tools = [
        _prepare_tool(tool, param, is_forced=is_forced)
        for tool, param in zip(conversation.tools, params, strict=True)
    ]
    return msgspec.structs.replace(conversation, tools=tools)


def _prepare_tool(tool: Function, param: str, *, is_forced: bool) -> Function:
    if tool.strict:
        return _as_enforced(tool, param)
    check_schema(tool.parameters, param)
    if not is_forced:
        return tool
    # Some clients write `strict: false` in every tool and force it nevertheless.
    try:
        return _as_enforced(tool, param)
    except InvalidRequestError:
        return tool


def _as_enforced(tool: Function, param: str) -> Function:
    return msgspec.structs.replace(tool, parameters=normalize_schema(tool.parameters, param), strict=True)


def _prepare_form(form: StructuredOutputs, param: str) -> StructuredOutputs:
    check_form(form, param)
    if form.json is not None:
        return _prepare_json(form, param)
    if form.structural_tag is not None and (tag := _decode_json(form.structural_tag)) is not None:
        normalize_tag(tag, param)
        return msgspec.structs.replace(form, structural_tag=msgspec.json.encode(tag).decode())
    return form


def _prepare_json(form: StructuredOutputs, param: str) -> StructuredOutputs:
    schema: Any = form.json
    if isinstance(schema, str):
        schema = _decode_json(schema)
        # Schemas that are not sent as text were checked with the request body.
        check_json(schema, param)
    if schema is None:
        return form
    normalized = normalize_schema(schema, param)
    # A schema that was sent as text stays text unless normalization changes it.
    return form if normalized == schema else msgspec.structs.replace(form, json=normalized)


def _decode_json(text: str) -> Any:
    """Decode JSON; None if it is invalid, which the engine then reports."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None


def _check_bad_words(words: list[str]) -> None:
    if len(set(words)) > MAX_BAD_WORDS:
        raise InvalidRequestError(
            f"'bad_words' must have at most {MAX_BAD_WORDS} words.",
            param="bad_words",
            code="array_above_max_length",
        )
