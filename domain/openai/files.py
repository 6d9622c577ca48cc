"""The bodies and answers of the Files API.

Source: OpenAI's schemas `CreateFileRequest`, `OpenAIFile`, `ListFilesResponse` and `DeleteFileResponse`.
"""

import unicodedata
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec

from domain.errors import InvalidRequestError
from domain.files import FilePurpose, Order, StoredFile
from domain.openai.field import describe

BATCH = "batch"
MAX_NAME = 255
"""Characters of a file's name."""
MAX_LIMIT = 10_000
MIN_EXPIRY_S, MAX_EXPIRY_S = 3600, 2_592_000


class FileBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """OpenAI's schema `CreateFileRequest`; the name of the file stands for its contents."""

    file: Annotated[str, msgspec.Meta(extra_json_schema={"format": "binary"}), describe("The file.")]
    purpose: Annotated[str, describe("What the file is for: `batch`. Others are refused.")]
    expires_anchor: Annotated[
        Literal["created_at"] | None, describe("From when `expires_after[seconds]` counts: `created_at`.")
    ] = msgspec.field(default=None, name="expires_after[anchor]")
    expires_seconds: Annotated[
        Annotated[int, msgspec.Meta(ge=MIN_EXPIRY_S, le=MAX_EXPIRY_S)] | None,
        describe(
            "Seconds after which the file is removed, 3600 (an hour) to 2592000 (30 days). By default 2592000, as "
            "for OpenAI's batch files."
        ),
    ] = msgspec.field(default=None, name="expires_after[seconds]")

    def check(self) -> None:
        """Check what the types can't.

        Raises:
            InvalidRequestError: the purpose, the name or the expiry is none that is possible.
        """
        if self.purpose != BATCH:
            raise InvalidRequestError(
                f"Invalid 'purpose': '{self.purpose[:60]}' is not supported here. The only supported purpose is "
                f"'{BATCH}'.",
                param="purpose",
                code="invalid_value",
            )
        check_name(self.file)
        for missing, given in (("anchor", self.expires_seconds), ("seconds", self.expires_anchor)):
            param = f"expires_after[{missing}]"
            if given is not None and getattr(self, f"expires_{missing}") is None:
                raise InvalidRequestError(
                    f"Missing required parameter: '{param}'. 'expires_after' needs both 'anchor' and 'seconds'.",
                    param=param,
                    code="missing_required_parameter",
                )

    @property
    def keep_s(self) -> int:
        """Seconds from the creation of the file to its removal."""
        return MAX_EXPIRY_S if self.expires_seconds is None else self.expires_seconds


class FilesQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which files a client wants to see."""

    purpose: str | None = None
    after: str | None = None
    """The id of the file before the first one."""
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)] = MAX_LIMIT
    order: Order = "desc"


class FileObject(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's schema `OpenAIFile`."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    """Unix time in seconds."""
    expires_at: int | None = None
    """Unix time in seconds; null for a file that is kept until it is deleted."""
    filename: str
    purpose: FilePurpose
    status: Literal["processed"] = "processed"


class FileList(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's schema `ListFilesResponse`."""

    object: Literal["list"] = "list"
    data: Sequence[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedFile(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's schema `DeleteFileResponse`."""

    id: str
    object: Literal["file"] = "file"
    deleted: bool = True


def file_object(file: StoredFile) -> FileObject:
    """A file in OpenAI's shape."""
    return FileObject(
        id=file.id,
        bytes=file.size_bytes,
        created_at=file.created,
        expires_at=file.expires,
        filename=file.name,
        purpose=file.purpose,
    )


def file_list(found: Sequence[StoredFile], limit: int) -> FileList:
    """A page in OpenAI's shape.

    Args:
        found: the files of the page, and one more if there are more.
        limit: the size of the page.
    """
    data = [file_object(each) for each in found[:limit]]
    return FileList(
        data=data,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
        has_more=len(found) > limit,
    )


def check_name(name: str) -> None:
    """Check the name of a file.

    Raises:
        InvalidRequestError: it is empty or too long, or has characters that no name of a file has.
    """
    why = None
    if not name.strip():
        why = "it is empty"
    elif len(name) > MAX_NAME:
        why = f"it has {len(name)} characters, and {MAX_NAME} are possible"
    elif "/" in name or "\\" in name:
        why = "it contains a path separator"
    elif any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        why = "it contains control characters"
    if why is not None:
        raise InvalidRequestError(f"Invalid name of 'file': {why}.", param="file", code="invalid_value")
