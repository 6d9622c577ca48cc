"""What each key has left of its minute, and what a request takes of it.

Tokens are estimated before the engine begins, as admission estimates them, and corrected to what the engine
counted. A request that fails costs no tokens; one whose client leaves costs the estimate, because what was thrown
away is not counted.
"""

import math
from collections.abc import Sequence
from typing import Any

from app.http.api_keys import ApiKey
from app.http.requests import AnyRequest
from domain.errors import RequestRateError, TokenRateError
from domain.policies.rate_limit import Bucket, Clock, duration
from domain.requests import OPEN_ENDED_ANSWER_TOKENS, Request

ACCOUNT = "account"
"""Where a request's state keeps the account of its key; absent where no keys are set."""


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
    """Tokens that a request under way has taken of its key's minute; as a context, settled at its end."""

    def __init__(self, account: Account | None, tokens: int) -> None:
        """Take the tokens.

        Args:
            account: the key's; None where there is no limit, and then nothing is taken.
            tokens: the estimate.

        Raises:
            TokenRateError: the key has not so many tokens left.
        """
        if account is not None:
            account.take_tokens(tokens)
        self._account = account
        self._tokens = tokens
        self.used = 0
        """What the request took; a request that fails costs nothing."""

    def __enter__(self) -> "Reservation":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # What was thrown away because the client left is not counted, and stays at the estimate.
        if self._account is not None and (kind is None or issubclass(kind, Exception)):
            self._account.correct(self._tokens, self.used)


def reserve(request: AnyRequest, calls: Sequence[Request[Any]]) -> Reservation:
    """Take what a request is estimated to cost.

    Raises:
        TokenRateError: the key has not so many tokens left.
    """
    account: Account | None = request.scope["state"].get(ACCOUNT)
    if account is None or account.tokens is None:
        return Reservation(None, 0)
    open_ended = [call for call in calls if call.max_answer_tokens is None]
    bounded = sum(call.estimated_prompt_tokens + (call.max_answer_tokens or 0) for call in calls)
    answers = sum(OPEN_ENDED_ANSWER_TOKENS * call.width for call in open_ended)
    # An open end by itself makes no request too large.
    return Reservation(account, bounded + min(answers, max(0, account.tokens.capacity - bounded)))
