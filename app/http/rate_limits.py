"""Rate limits per API key: requests and tokens per minute.

Tokens are estimated before the engine begins, as admission estimates them, and corrected to the engine's count.
A failed request costs no tokens; one whose client disconnects costs the estimate, since its tokens are not known.
"""

import math
from collections.abc import Sequence
from typing import Any

from app.http.api_keys import ApiKey
from app.http.own_requests import stated_owner
from app.http.requests import AnyRequest
from domain.errors import RequestRateError, TokenRateError
from domain.policies.token_bucket import Bucket, Clock, duration
from domain.requests import OPEN_ENDED_ANSWER_TOKENS, Request

ACCOUNT = "account"
"""Key of the account in a request's state; absent if no keys are set."""


def owner_of(request: AnyRequest) -> str:
    """The owner of what the request stores, from its key; empty if no keys are set."""
    owner = stated_owner(request.scope)
    if owner is not None:
        return owner
    account: Account | None = request.scope["state"].get(ACCOUNT)
    return "" if account is None else account.owner


class Account:
    """The remaining requests and tokens of one key."""

    def __init__(self, key: ApiKey, *, shares: int, clock: Clock) -> None:
        """Create the account.

        Args:
            key: the key.
            shares: number of processes that share the key's limits evenly.
            clock: time source.
        """
        self.name = key.name
        self.owner = key.owner
        self.requests, self.tokens = (
            Bucket(limit, shares=shares, clock=clock) if limit else None
            for limit in (key.requests_per_minute, key.tokens_per_minute)
        )

    def take_request(self) -> None:
        """Charge one request.

        Raises:
            RequestRateError: no requests are left.
        """
        if self.requests is not None and (wait_s := self.requests.take(1)):
            raise RequestRateError(
                self._message("requests per min (RPM)", self.requests, 1, wait_s),
                retry_after_s=math.ceil(wait_s),
            )

    def take_tokens(self, estimate: int) -> None:
        """Charge tokens before they are used.

        Raises:
            TokenRateError: not enough tokens are left.
        """
        if self.tokens is not None and (wait_s := self.tokens.take(estimate)):
            # A request above the limit never fits, but the header needs a finite time.
            retry_s = 60.0 if math.isinf(wait_s) else wait_s
            raise TokenRateError(
                self._message("tokens per min (TPM)", self.tokens, estimate, wait_s),
                retry_after_s=math.ceil(retry_s),
            )

    def correct(self, estimate: int, used: int) -> None:
        """Correct an estimate to the tokens that were used."""
        if self.tokens is not None:
            self.tokens.give(estimate - used)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """OpenAI's rate limit headers, for the limits that are set."""
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

    def _message(self, limited: str, bucket: Bucket, requested: int, wait_s: float) -> str:
        if math.isinf(wait_s):
            return (
                f"Request too large for key '{self.name}' on {limited}: Limit {bucket.capacity}, Requested "
                f"{requested}. The input or output tokens must be reduced in order to run successfully."
            )
        return (
            f"Rate limit reached for key '{self.name}' on {limited}: Limit {bucket.capacity}, Used "
            f"{bucket.capacity - bucket.remaining}, Requested {requested}. Please try again in {duration(wait_s)}."
        )


class Reservation:
    """Tokens charged in advance for a running request; a context manager that corrects them at its end."""

    def __init__(self, account: Account | None, tokens: int) -> None:
        """Charge the tokens.

        Args:
            account: the key's account; None without a limit, and then nothing is charged.
            tokens: the estimate.

        Raises:
            TokenRateError: the key does not have enough tokens left.
        """
        if account is not None:
            account.take_tokens(tokens)
        self._account = account
        self._tokens = tokens
        self.used = 0
        """Tokens that the request used; a failed request costs nothing."""

    def __enter__(self) -> "Reservation":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # If the client disconnected, the used tokens are unknown and the estimate stands.
        if self._account is not None and (kind is None or issubclass(kind, Exception)):
            self._account.correct(self._tokens, self.used)


def reserve(request: AnyRequest, calls: Sequence[Request[Any]]) -> Reservation:
    """Charge a request's estimated tokens.

    Raises:
        TokenRateError: the key does not have enough tokens left.
    """
    account: Account | None = request.scope["state"].get(ACCOUNT)
    if account is None or account.tokens is None:
        return Reservation(None, 0)
    open_ended = [call for call in calls if call.max_answer_tokens is None]
    bounded = sum(call.estimated_prompt_tokens + (call.max_answer_tokens or 0) for call in calls)
    answers = sum(OPEN_ENDED_ANSWER_TOKENS * call.width for call in open_ended)
    # An open-ended answer alone must not make a request exceed the limit.
    return Reservation(account, bounded + min(answers, max(0, account.tokens.capacity - bounded)))
