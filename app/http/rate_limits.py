"""What each key has left of its minute, and what a request takes of it.

Tokens are estimated before the engine begins, as a quarter of the body's bytes plus the most that may be
generated, and corrected to what the engine counted. A request that fails costs no tokens; one whose client leaves
costs what was estimated, because nobody counts what was thrown away.
"""

import contextlib
import math
from collections.abc import AsyncGenerator, Coroutine, Sequence
from typing import Any

from litestar.types import Message, Send

from app.http.api_keys import ApiKey
from app.http.requests import AnyRequest
from domain.errors import RequestRateError, TokenRateError
from domain.fan_in import Indexed
from domain.policies.rate_limit import Bucket, Clock, duration
from domain.requests import GenerationRequest
from domain.results import EmbeddingResult, GenerationUsage

ACCOUNT = "account"
"""Where a request's state keeps the account of its key; absent where no keys are set."""
BYTES_PER_TOKEN = 4
UNBOUNDED_COMPLETION_TOKENS = 256
"""Estimated for an answer that the request does not bound."""


class Account:
    """What one key has left."""

    def __init__(self, key: ApiKey, *, shares: int, clock: Clock) -> None:
        """Make it.

        Args:
            key: whose it is.
            shares: how many processes share the key's limits evenly.
            clock: tells the time.
        """
        self.name = key.name
        self.requests, self.tokens = (
            Bucket(limit, shares=shares, clock=clock) if limit else None
            for limit in (key.requests_per_minute, key.tokens_per_minute)
        )

    def take_request(self) -> None:
        """Count one request.

        Raises:
            RequestRateError: the minute's requests are used up.
        """
        if self.requests is not None and (wait_s := self.requests.take(1)):
            raise RequestRateError(
                self._refusal("requests per min (RPM)", self.requests, 1, wait_s),
                retry_after_s=math.ceil(wait_s),
            )

    def take_tokens(self, estimate: int) -> None:
        """Count tokens before they are used.

        Raises:
            TokenRateError: there are not so many left.
        """
        if self.tokens is not None and (wait_s := self.tokens.take(estimate)):
            # More than a whole minute's worth is not there in a minute either; clients still may go on then.
            retry_s = 60.0 if math.isinf(wait_s) else wait_s
            raise TokenRateError(
                self._refusal("tokens per min (TPM)", self.tokens, estimate, wait_s),
                retry_after_s=math.ceil(retry_s),
            )

    def correct(self, estimate: int, used: int) -> None:
        """What the tokens came to."""
        if self.tokens is not None:
            self.tokens.give(estimate - used)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """OpenAI's headers about limits; none for what is not limited."""
        return [
            (f"x-ratelimit-{part}-{what}".encode(), value.encode())
            for what, bucket in (("requests", self.requests), ("tokens", self.tokens))
            if bucket is not None
            for part, value in (
                ("limit", str(bucket.capacity)),
                ("remaining", str(bucket.remaining)),
                ("reset", duration(bucket.reset_s)),
            )
        ]

    def announced(self, send: Send) -> Send:
        """A `send` that adds the headers, as things are when the answer begins."""

        async def send_announced(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *self.headers()]
            await send(message)

        return send_announced

    def _refusal(self, of_what: str, bucket: Bucket, requested: int, wait_s: float) -> str:
        if math.isinf(wait_s):
            return (
                f"Request too large for key '{self.name}' on {of_what}: Limit {bucket.capacity}, Requested "
                f"{requested}. The input or output tokens must be reduced in order to run successfully."
            )
        return (
            f"Rate limit reached for key '{self.name}' on {of_what}: Limit {bucket.capacity}, Used "
            f"{bucket.capacity - bucket.remaining}, Requested {requested}. Please try again in {duration(wait_s)}."
        )


class Reservation:
    """Tokens that a request under way has taken."""

    def __init__(self, account: Account, tokens: int) -> None:
        account.take_tokens(tokens)
        self._account = account
        self._tokens = tokens

    def settle(self, used: int) -> None:
        """Correct what was taken to what was used."""
        self._account.correct(self._tokens, used)


async def reserve(request: AnyRequest, generations: Sequence[GenerationRequest] = ()) -> Reservation | None:
    """Take what a request is estimated to cost; None where its key has no limit.

    Raises:
        TokenRateError: the key has not so many tokens left.
    """
    account: Account | None = request.scope["state"].get(ACCOUNT)
    if account is None or account.tokens is None:
        return None
    estimate = -(-len(await request.body()) // BYTES_PER_TOKEN)
    for one in generations:
        most = one.sampling.max_tokens
        if most is None:
            # An open end by itself makes no request too large.
            most = min(UNBOUNDED_COMPLETION_TOKENS, max(0, account.tokens.capacity - estimate))
            estimate += most
        else:
            estimate += most * one.sampling.n
    return Reservation(account, estimate)


def counted(
    events: AsyncGenerator[Indexed, None], reservation: Reservation | None
) -> AsyncGenerator[Indexed, None]:
    """The events, which settle the reservation at their end."""
    return events if reservation is None else _counted(events, reservation)


def counted_embedding(
    work: Coroutine[Any, Any, EmbeddingResult], reservation: Reservation | None
) -> Coroutine[Any, Any, EmbeddingResult]:
    """The work, which settles the reservation at its end."""
    return work if reservation is None else _counted_embedding(work, reservation)


async def _counted(
    events: AsyncGenerator[Indexed, None], reservation: Reservation
) -> AsyncGenerator[Indexed, None]:
    used = 0
    try:
        async with contextlib.aclosing(events):
            async for item in events:
                if isinstance(item[1], GenerationUsage):
                    used += item[1].prompt_tokens + item[1].completion_tokens
                yield item
    except Exception:
        reservation.settle(used)
        raise
    reservation.settle(used)


async def _counted_embedding(
    work: Coroutine[Any, Any, EmbeddingResult], reservation: Reservation
) -> EmbeddingResult:
    try:
        result = await work
    except Exception:
        reservation.settle(0)
        raise
    reservation.settle(result.prompt_tokens)
    return result
