"""The gate: who has a key goes in, is counted, and is told what is left.

Source: OpenAI's API reference, "Authentication" and "Rate limits in headers"; the bodies are those that
openai-python turns into `AuthenticationError` and `RateLimitError`.
"""

import time

from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Receive, Scope, Send

from app.http.api_keys import KeyRing, masked, read_keys
from app.http.errors import refuse
from app.http.rate_limits import ACCOUNT, Account
from app.http.requests import AnyRequest
from app.page.files import PATHS
from app.settings import Settings
from app.telemetry.request import note_key
from domain.errors import AuthenticationError, RequestRateError
from domain.policies.rate_limit import Clock

OPEN = {"/health", "/health/live", "/health/ready"}
"""What load balancers ask, who have no key."""
_STRANGER = "stranger"


class Gate(ASGIMiddleware):
    """Stands before every route."""

    scopes = (ScopeType.HTTP,)

    def __init__(self, keys: KeyRing, *, processes: int = 1, clock: Clock = time.monotonic) -> None:
        """Make it.

        Args:
            keys: those that open it.
            processes: how many processes share the keys' limits evenly.
            clock: tells the time.
        """
        self._keys = keys
        self._accounts = {key.name: Account(key, shares=processes, clock=clock) for key in keys.keys}

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """Let a request through, or answer it with 401 or 429."""
        if scope["type"] != ScopeType.HTTP:
            await next_app(scope, receive, send)
            return
        try:
            account = self._account(scope)
        except AuthenticationError as error:
            if scope["path"] not in OPEN | PATHS:
                await refuse(error, scope, send)
                return
            scope["state"][_STRANGER] = True
            await next_app(scope, receive, send)
            return
        scope["state"][ACCOUNT] = account
        note_key(scope, account.name)
        send = account.announced(send)
        if scope["method"] == "POST":
            # Only these are work for an engine.
            try:
                account.take_request()
            except RequestRateError as error:
                await refuse(error, scope, send)
                return
        await next_app(scope, receive, send)

    def _account(self, scope: Scope) -> Account:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        scheme, _, text = given[0].strip().partition(b" ") if given else (b"", b"", b"")
        text = text.strip()
        if scheme.lower() != b"bearer" or not text or len(given) > 1:
            raise AuthenticationError(
                "You didn't provide an API key. You need to provide your API key in an Authorization header using "
                "Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."
            )
        key = self._keys.find(text)
        if key is None:
            raise AuthenticationError(
                f"Incorrect API key provided: {masked(text.decode('latin-1'))}.", code="invalid_api_key"
            )
        return self._accounts[key.name]


def build_gate(settings: Settings, *, clock: Clock = time.monotonic) -> Gate | None:
    """The gate that the settings ask for, or None where they name no key.

    Raises:
        ConfigurationError: the keys can't be used.
    """
    keys = read_keys(settings.security)
    if keys is None:
        return None
    return Gate(keys, processes=settings.api_processes, clock=clock)


def is_stranger(request: AnyRequest) -> bool:
    """Whether there are keys, and the request has none of them."""
    return _STRANGER in request.scope["state"]
