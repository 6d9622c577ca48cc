"""Items of the Responses API: what a client sends as `input`, and what a stored response or conversation holds.

Source: OpenAI's schemas `InputItem` and `OutputItem`. An item may come without its type: a message is recognized
by its role, and a reference by having nothing but an id.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import msgspec

from domain.errors import InvalidRequestError
from domain.openai.malformed import MALFORMED, malformed_json
from domain.openai.responses.sealing import unseal
from domain.random_id import random_hex
from domain.state import Item

Status = Literal["in_progress", "completed", "incomplete"]
UNSET = msgspec.UNSET
Unset = msgspec.UnsetType


class _Wire(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Base of structs that are decoded from requests and encoded in answers."""


class InputText(_Wire, kw_only=True, tag_field="type", tag="input_text"):
    """A text part of a message from the client."""

    text: str
    prompt_cache_breakpoint: dict[str, Any] | Unset = UNSET


class OutputText(_Wire, kw_only=True, tag_field="type", tag="output_text"):
    """A text part of a message from the model."""

    annotations: list[Any] = []
    logprobs: list[Any] = []
    text: str
    parsed: Any = UNSET
    """Added by openai-python's `responses.parse`, which sends it back. Ignored."""


class Refusal(_Wire, kw_only=True, tag_field="type", tag="refusal"):
    """A refusal in a message from the model."""

    refusal: str


class InputImage(msgspec.Struct, tag_field="type", tag="input_image"):
    """An image; not supported."""


class InputFile(msgspec.Struct, tag_field="type", tag="input_file"):
    """A file, which the models here can't read."""


class ReasoningText(_Wire, kw_only=True, tag_field="type", tag="reasoning_text"):
    """A part of a model's reasoning."""

    text: str


class SummaryText(_Wire, kw_only=True, tag_field="type", tag="summary_text"):
    """A part of the summary of a model's reasoning."""

    text: str


ContentPart = InputText | OutputText | Refusal | InputImage | InputFile
ToolOutput = str | list[InputText | OutputText | InputImage | InputFile]


class MessageItem(_Wire, kw_only=True):
    """A message of any role."""

    id: str | None | Unset = UNSET
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[ContentPart]
    status: Status | None | Unset = UNSET
    phase: Literal["commentary", "final_answer"] | None | Unset = UNSET


class FunctionCallItem(_Wire, kw_only=True):
    """A call of a function tool."""

    id: str | None | Unset = UNSET
    type: Literal["function_call"] = "function_call"
    call_id: str
    name: str
    arguments: str
    status: Status | None | Unset = UNSET
    namespace: str | None | Unset = UNSET
    caller: dict[str, Any] | None | Unset = UNSET
    parsed_arguments: Any = UNSET
    """Added by openai-python's `responses.parse`, which sends it back. Ignored."""


class FunctionCallOutputItem(_Wire, kw_only=True):
    """The result of a function call."""

    id: str | None | Unset = UNSET
    type: Literal["function_call_output"] = "function_call_output"
    call_id: str
    output: ToolOutput
    status: Status | None | Unset = UNSET
    name: str | None | Unset = UNSET
    namespace: str | None | Unset = UNSET
    caller: dict[str, Any] | None | Unset = UNSET


class CustomToolCallItem(_Wire, kw_only=True):
    """A call of a custom tool, whose input is text."""

    id: str | None | Unset = UNSET
    type: Literal["custom_tool_call"] = "custom_tool_call"
    call_id: str
    name: str
    input: str
    status: Status | None | Unset = UNSET
    namespace: str | None | Unset = UNSET
    caller: dict[str, Any] | None | Unset = UNSET


class CustomToolCallOutputItem(_Wire, kw_only=True):
    """The result of a call of a custom tool."""

    id: str | None | Unset = UNSET
    type: Literal["custom_tool_call_output"] = "custom_tool_call_output"
    call_id: str
    output: ToolOutput
    status: Status | None | Unset = UNSET
    name: str | None | Unset = UNSET
    caller: dict[str, Any] | None | Unset = UNSET


class ReasoningItem(_Wire, kw_only=True):
    """A model's reasoning."""

    id: str | None | Unset = UNSET
    type: Literal["reasoning"] = "reasoning"
    summary: list[SummaryText] = []
    content: list[ReasoningText] | None | Unset = UNSET
    encrypted_content: str | None | Unset = UNSET
    status: Status | None | Unset = UNSET


class CompactionItem(_Wire, kw_only=True):
    """The summary of earlier items, in a form that only this service reads (`POST /v1/responses/compact`)."""

    id: str | None | Unset = UNSET
    type: Literal["compaction", "compaction_summary"] = "compaction"
    encrypted_content: str


class CompactionTrigger(_Wire, kw_only=True):
    """Asks for a summary of all items before it, instead of an answer to them."""

    id: str | None | Unset = UNSET
    type: Literal["compaction_trigger"] = "compaction_trigger"


class ItemReference(_Wire, kw_only=True):
    """A stored item, by its id."""

    id: str
    type: Literal["item_reference"] | None = "item_reference"


ResponseItem = (
    MessageItem
    | FunctionCallItem
    | FunctionCallOutputItem
    | CustomToolCallItem
    | CustomToolCallOutputItem
    | ReasoningItem
    | CompactionItem
)
AnyItem = ResponseItem | ItemReference | CompactionTrigger

ITEM_TYPES: dict[str, type[AnyItem]] = {
    "message": MessageItem,
    "function_call": FunctionCallItem,
    "function_call_output": FunctionCallOutputItem,
    "custom_tool_call": CustomToolCallItem,
    "custom_tool_call_output": CustomToolCallOutputItem,
    "reasoning": ReasoningItem,
    "compaction": CompactionItem,
    "compaction_summary": CompactionItem,
    "compaction_trigger": CompactionTrigger,
    "item_reference": ItemReference,
}
"""Item types of text models; all others are those of tools that run at OpenAI."""

ID_PREFIXES: dict[type[ResponseItem], str] = {
    MessageItem: "msg",
    FunctionCallItem: "fc",
    FunctionCallOutputItem: "fco",
    CustomToolCallItem: "ctc",
    CustomToolCallOutputItem: "ctco",
    ReasoningItem: "rs",
    CompactionItem: "cmp",
}

MAX_ID_LENGTH = 512
"""Characters of an item's id. PostgreSQL's indexes take about 2,700 bytes, and a character has up to 4."""

T = TypeVar("T", bound=msgspec.Struct)
DecodePart = Callable[[bytes, type[Any], str], Any]
"""Decodes a part of a body: its JSON, its type, and its path for error messages."""
IgnorePart = Callable[[str, str], None]
"""Called with the path and the type of a part that is ignored; may raise instead."""


class _Kind(msgspec.Struct):
    """What decides an item's type."""

    type: Any = None
    role: Any = None
    id: Any = None


_kind_decoder = msgspec.json.Decoder(_Kind)
_encode = msgspec.json.Encoder().encode


def new_item_id(kind: type[ResponseItem]) -> str:
    """A new id for an item of this type, such as `msg_6f1c…`."""
    return f"{ID_PREFIXES[kind]}_{random_hex()}"


def read_items(
    raws: Sequence[bytes], decode: DecodePart, ignore: IgnorePart, param: str = "input"
) -> list[AnyItem]:
    """Decode items.

    Args:
        raws: each item's JSON.
        decode: decodes one of them, and raises InvalidRequestError if it is invalid.
        ignore: called for items of types that a text model does not have.
        param: the request field of the items.

    Raises:
        InvalidRequestError: an item is invalid.
    """
    items: list[AnyItem] = []
    for position, raw in enumerate(raws):
        path = f"{param}[{position}]"
        name = _type_name(raw, path)
        kind = ITEM_TYPES.get(name)
        if kind is None:
            check_ignored(raw)
            ignore(path, name)
            continue
        item: AnyItem = decode(raw, kind, path)
        _check_id(item, path)
        _check_parts(item, path)
        if isinstance(item, CompactionItem) and unseal(item.encrypted_content) is None:
            raise InvalidRequestError(
                f"'{path}.encrypted_content' can't be read: only compactions that this service has made can. Send "
                "the conversation itself, or a summary of it as a message.",
                param=f"{path}.encrypted_content",
                code="invalid_encrypted_content",
            )
        items.append(item)
    return items


def check_ignored(raw: bytes) -> None:
    """Refuse malformed JSON in a part that nothing decodes: msgspec passes over it without checking its strings.

    Raises:
        InvalidRequestError: the part is not JSON.
    """
    try:
        msgspec.json.decode(raw)
    except MALFORMED as error:
        raise malformed_json(error) from None


def _type_name(raw: bytes, path: str) -> str:
    try:
        kind = _kind_decoder.decode(raw)
    except msgspec.ValidationError:
        raise InvalidRequestError(
            f"Invalid '{path}': expected an object.", param=path, code="invalid_type"
        ) from None
    except MALFORMED as error:
        raise malformed_json(error) from None
    if isinstance(kind.type, str):
        return kind.type
    if kind.type is not None:
        raise InvalidRequestError(
            f"Invalid '{path}.type': expected a string.", param=f"{path}.type", code="invalid_type"
        )
    return "item_reference" if kind.role is None and kind.id is not None else "message"


def _check_id(item: AnyItem, path: str) -> None:
    """Refuse ids that are too long for a database's index."""
    if item.id and len(item.id) > MAX_ID_LENGTH:
        raise InvalidRequestError(
            f"Invalid '{path}.id': expected a string of at most {MAX_ID_LENGTH} characters, but got one of "
            f"{len(item.id)}.",
            param=f"{path}.id",
            code="string_above_max_length",
        )


def _check_parts(item: AnyItem, path: str) -> None:
    """Refuse images and files."""
    parts: Any = ()
    name = "content"
    if isinstance(item, MessageItem):
        parts = item.content
    elif isinstance(item, FunctionCallOutputItem | CustomToolCallOutputItem):
        parts, name = item.output, "output"
    if isinstance(parts, str):
        return
    for position, part in enumerate(parts):
        if isinstance(part, InputImage | InputFile):
            what = "Images" if isinstance(part, InputImage) else "Files"
            raise InvalidRequestError(
                f"{what} are not supported here: the model reads text only. Remove '{path}.{name}[{position}]'.",
                param=f"{path}.{name}[{position}]",
                code="unsupported_content",
            )


def stored_item(item: ResponseItem) -> Item:
    """The item in the form in which it is stored and listed: with an id and status, its content as parts."""
    changes: dict[str, Any] = {}
    item_id = item.id or new_item_id(type(item))
    changes["id"] = item_id
    if not isinstance(item, CompactionItem | ReasoningItem) and not item.status:
        changes["status"] = "completed"
    if isinstance(item, MessageItem) and isinstance(item.content, str):
        part = OutputText(text=item.content) if item.role == "assistant" else InputText(text=item.content)
        changes["content"] = [part]
    return Item(item_id, _encode(msgspec.structs.replace(item, **changes)))


def text_of(content: str | list[Any]) -> str:
    """The text of a message's content or of a tool's output."""
    if isinstance(content, str):
        return content
    return "".join(part.refusal if isinstance(part, Refusal) else part.text for part in content)
