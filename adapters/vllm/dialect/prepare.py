"""Turns a generation request into one that vLLM can follow, or refuses it before anything reaches the engine.

Both adapters call `prepare` first, so nothing behind it checks or normalizes a schema again.
"""

from typing import Any

import msgspec

from adapters.vllm.dialect.grammar_limits import check_form, check_schema
from adapters.vllm.dialect.schema_rules import normalize_schema, normalize_tag
from domain.conversation import Conversation, Function
from domain.errors import InvalidRequestError
from domain.openai.nesting import check_json
from domain.requests import GenerationRequest
from domain.sampling import StructuredOutputs

MAX_BAD_WORDS = 128
"""vLLM's own limit (`VLLM_MAX_NUM_BAD_WORDS`)."""


def prepare(request: GenerationRequest) -> GenerationRequest:
    """The request with its schemas in the keywords that the engine follows.

    Those are the schemas of structured outputs and the parameters of strict tools. Tools that are not strict keep
    theirs and are checked for size only. The request itself stays as it is; without schemas it is returned.

    Raises:
        InvalidRequestError: the engine can't follow a part of the request, or would compile a grammar of it for
            too long. `param` is the client's field, from `sampling.structured_outputs_param` or
            `Conversation.tool_params`.
    """
    sampling, prompt = request.sampling, request.prompt
    if isinstance(prompt, Conversation) and prompt.tools:
        request = msgspec.structs.replace(request, prompt=_prepared_tools(prompt))
    if sampling.structured_outputs is not None:
        form = _prepared_form(sampling.structured_outputs, sampling.structured_outputs_param)
        request = msgspec.structs.replace(
            request, sampling=msgspec.structs.replace(sampling, structured_outputs=form)
        )
    if sampling.bad_words is not None:
        _check_bad_words(sampling.bad_words)
    return request


def _prepared_tools(conversation: Conversation) -> Conversation:
    params = conversation.tool_params or [
        f"tools[{position}].function.parameters" for position in range(len(conversation.tools))
    ]
    tools = [_prepared_tool(tool, param) for tool, param in zip(conversation.tools, params, strict=True)]
    return msgspec.structs.replace(conversation, tools=tools)


def _prepared_tool(tool: Function, param: str) -> Function:
    if not tool.strict:
        check_schema(tool.parameters, param)
        return tool
    return msgspec.structs.replace(tool, parameters=normalize_schema(tool.parameters, param))


def _prepared_form(form: StructuredOutputs, param: str) -> StructuredOutputs:
    check_form(form, param)
    if form.json is not None:
        return _prepared_json(form, param)
    if form.structural_tag is not None and (tag := _decoded(form.structural_tag)) is not None:
        normalize_tag(tag, param)
        return msgspec.structs.replace(form, structural_tag=msgspec.json.encode(tag).decode())
    return form


def _prepared_json(form: StructuredOutputs, param: str) -> StructuredOutputs:
    schema: Any = form.json
    if isinstance(schema, str):
        schema = _decoded(schema)
        # A schema that is not sent as text was checked with the request's body.
        check_json(schema, param)
    if schema is None:
        return form
    normalized = normalize_schema(schema, param)
    # A schema that was sent as text stays text unless it has to change.
    return form if normalized == schema else msgspec.structs.replace(form, json=normalized)


def _decoded(text: str) -> Any:
    """The JSON value of a text, or None where it has none: then the engine says what is wrong."""
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
