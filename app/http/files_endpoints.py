"""The endpoints of the Files API."""

from app.http.controllers.files import (
    create_file,
    delete_file,
    list_files,
    retrieve_file,
    retrieve_file_content,
)
from app.http.endpoint_kinds import stored
from domain.openai.files import DeletedFile, FileBody, FileList, FileObject

FILES_ENDPOINTS = (
    stored(
        "POST",
        "/v1/files",
        create_file,
        FileObject,
        body=FileBody,
        body_type="multipart/form-data",
        summary="Upload a file",
        about="keeps a file, whose lines are the requests of a batch",
        body_note="The body is a form (`multipart/form-data`). It may have up to `FILES_MAX_SIZE`, whatever "
        "`MAX_BODY_BYTES` is.",
    ),
    stored(
        "GET",
        "/v1/files",
        list_files,
        FileList,
        summary="List files",
        about="the files of the key: `purpose`, `after`, `limit`, `order`",
    ),
    stored(
        "GET",
        "/v1/files/{file_id:str}",
        retrieve_file,
        FileObject,
        summary="Retrieve a file",
        about="size, name and expiry of a file",
    ),
    stored(
        "GET",
        "/v1/files/{file_id:str}/content",
        retrieve_file_content,
        FileObject,
        is_file=True,
        summary="Retrieve the contents of a file",
        about="the contents of a file",
    ),
    stored(
        "DELETE",
        "/v1/files/{file_id:str}",
        delete_file,
        DeletedFile,
        summary="Delete a file",
        about="deletes a file",
    ),
)
