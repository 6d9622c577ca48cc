"""The endpoints of the Batches API."""

from app.http.controllers.batches import cancel_batch, create_batch, list_batches, retrieve_batch
from app.http.endpoint_kinds import stored
from domain.openai.batches import Batch, BatchBody, BatchList

BATCHES_ENDPOINTS = (
    stored(
        "POST",
        "/v1/batches",
        create_batch,
        Batch,
        body=BatchBody,
        summary="Create a batch",
        about="a [batch](docs/batches.md): the requests in the lines of a file, run in what other requests leave",
    ),
    stored(
        "GET",
        "/v1/batches",
        list_batches,
        BatchList,
        summary="List batches",
        about="batches, newest first: `limit`, `after`",
    ),
    stored(
        "GET",
        "/v1/batches/{batch_id:str}",
        retrieve_batch,
        Batch,
        summary="Retrieve a batch",
        about="one batch: its status, progress, errors and output files",
    ),
    stored(
        "POST",
        "/v1/batches/{batch_id:str}/cancel",
        cancel_batch,
        Batch,
        summary="Cancel a batch",
        about="cancels a batch; what has been answered is kept",
    ),
)
