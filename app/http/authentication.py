"""Asks for API keys, counts their requests and reports what is left of their limits.

Source: OpenAI's API reference, "Authentication" and "Rate limits in headers"; Anthropic's API reference,
"Authentication". The client libraries turn the answers into `AuthenticationError` and `RateLimitError`.
"""

import time
from collections.abc import Sequence

import msgspec
from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Receive, Scope, Send

from app.http.api_keys import KeyRing, masked, read_keys
from app.http.endpoint import Access, Endpoint
from app.http.errors import refuse, refuse_handshake
from app.http.own_requests import stated_owner
from app.http.rate_limits import ACCOUNT, Account
from app.http.requests import AnyRequest
from app.http.response_headers import ACCOUNT_HEADERS
from app.settings import Settings
from app.telemetry.request import note_key
from domain.errors import AuthenticationError, RequestRateError
from domain.policies.token_bucket import Clock

ACCESS_RULES = "access_rules"
"""Where the application's state keeps the rules of its endpoints."""
_UNAUTHENTICATED = "unauthenticated"


class AccessRules(msgspec.Struct, frozen=True):
    """The endpoints' rules for authentication and rate limits."""

    open_paths: frozenset[str]
    """Paths that are served without a key, for any method: a load balancer may use OPTIONS."""
    counted: frozenset[tuple[str, str]]
    """Methods and paths whose requests count against the limit of their key."""

    @classmethod
    def of(cls, endpoints: Sequence[Endpoint]) -> "AccessRules":
        """The rules of these endpoints."""
        return cls(
            frozenset(row.template for row in endpoints if row.access is not Access.KEY),
            frozenset((row.method, row.template) for row in endpoints if row.is_counted),
        )


class ApiKeyMiddleware(ASGIMiddleware):
    """Wraps every route; unknown paths never reach it."""

    scopes = (ScopeType.HTTP, ScopeType.WEBSOCKET)

    def __init__(self, keys: KeyRing, *, processes: int = 1, clock: Clock = time.monotonic) -> None:
        """Create the middleware.

        Args:
            keys: the accepted keys.
            processes: number of processes that share the keys' limits evenly.
            clock: time source.
        """
        self._keys = keys
        self._names = {key.owner: key.name for key in keys.keys}
        self._accounts = {key.name: Account(key, shares=processes, clock=clock) for key in keys.keys}

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """Pass a request on, or answer it with 401 or 429."""
        if scope["type"] == ScopeType.WEBSOCKET:
            await self._handle_socket(scope, receive, send, next_app)
            return
        owner = stated_owner(scope)
        if owner is not None:
            # It was identified when its batch was created.
            note_key(scope, self._names.get(owner, owner))
            await next_app(scope, receive, send)
            return
        rules: AccessRules = scope["litestar_app"].state[ACCESS_RULES]
        path = scope["path_template"]
        try:
            account = self._account(scope)
        except AuthenticationError as error:
            if path not in rules.open_paths:
                await refuse(error, scope, send)
                return
            scope["state"][_UNAUTHENTICATED] = True
            await next_app(scope, receive, send)
            return
        scope["state"][ACCOUNT] = account
        note_key(scope, account.name)
        scope["state"][ACCOUNT_HEADERS] = account.headers
        if (scope["method"], path) in rules.counted:
            try:
                account.take_request()
            except RequestRateError as error:
                await refuse(error, scope, send)
                return
        await next_app(scope, receive, send)

    async def _handle_socket(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """Pass a WebSocket on, or answer its handshake with 401. Its messages are counted by its handler."""
        try:
            scope["state"][ACCOUNT] = self._account(scope)
        except AuthenticationError as error:
            await refuse_handshake(error, send)
            return
        await next_app(scope, receive, send)

    def _account(self, scope: Scope) -> Account:
        given = _given_keys(scope)
        for text in given:
            key = self._keys.find(text)
            if key is not None:
                return self._accounts[key.name]
        if given:
            raise AuthenticationError(
                f"Incorrect API key provided: {masked(given[0].decode('latin-1'))}.", code="invalid_api_key"
            )
        raise AuthenticationError(
            "You didn't provide an API key. You need to provide your API key in an Authorization header using "
            "Bearer auth (i.e. Authorization: Bearer YOUR_KEY), or in an x-api-key header."
        )


def _given_keys(scope: Scope) -> list[bytes]:
    """The keys in a request's headers.

    Clients of Anthropic's API send `x-api-key`, or both headers with different keys, of which one may be for
    another service. A header that occurs twice counts as absent.
    """
    bearers, keys = [], []
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, text = value.strip().partition(b" ")
            bearers.append(text.strip() if scheme.lower() == b"bearer" else b"")
        elif name == b"x-api-key":
            keys.append(value.strip())
    return [values[0] for values in (keys, bearers) if len(values) == 1 and values[0]]


def build_api_keys(settings: Settings, *, clock: Clock = time.monotonic) -> ApiKeyMiddleware | None:
    """The middleware that the settings ask for, or None where they name no key.

    Raises:
        ConfigurationError: the keys can't be used.
    """
    keys = read_keys(settings.security)
    if keys is None:
        return None
    return ApiKeyMiddleware(keys, processes=settings.api_processes, clock=clock)


def is_unauthenticated(request: AnyRequest) -> bool:
    """Whether keys are set, and the request has none of them."""
    return _UNAUTHENTICATED in request.scope["state"]
