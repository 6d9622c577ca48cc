"""Everything that the endpoints of the Responses API share: the store, and the responses under way."""

import asyncio

from app.http.rate_limits import Reservation
from app.responses.background import BackgroundRuns, Run
from app.responses.history import IS_OFF, History, RecentResponses
from app.responses.preparation import Prepared
from app.responses.recording import Recorder
from app.responses.stored import StoredResponses
from domain.errors import InvalidRequestError
from domain.openai.responses.body import ResponseBody
from domain.port import RequestContext
from domain.state import StateStore


class ResponsesService:
    """The Responses API of one process."""

    def __init__(self, state: StateStore | None) -> None:
        """Create it without starting anything.

        Args:
            state: where responses and conversations are stored; None to store nothing.
        """
        self.state = state
        self._runs = BackgroundRuns(state) if state is not None else None
        self._endings: set[asyncio.Task[None]] = set()
        self.stored = StoredResponses(state, self._runs)

    async def start(self) -> None:
        """Open the store.

        Raises:
            ConfigurationError: it can't be used.
        """
        if self.state is not None:
            await self.state.start()

    async def stop(self) -> None:
        """End what is generated in the background, and close the store."""
        if self._runs is not None:
            await self._runs.stop()
        await asyncio.gather(*self._endings, return_exceptions=True)
        if self.state is not None:
            await self.state.stop()

    def history(self, owner: str, recent: RecentResponses | None = None) -> History:
        """What an owner's requests can continue."""
        return History(self.state, owner, recent)

    def stores(self, body: ResponseBody) -> bool:
        """Whether a request's response will be stored.

        Raises:
            InvalidRequestError: it must be, and nothing is stored here.
        """
        if self.state is not None:
            return body.is_stored
        if body.background:
            raise InvalidRequestError(
                f"'background' is not available. {IS_OFF}", param="background", code="unsupported_parameter"
            )
        return False

    def recorder(self, prepared: Prepared, owner: str) -> Recorder:
        """Stores a response."""
        assert self.state is not None
        return Recorder(self.state, prepared, owner, self._endings)

    async def begin(
        self, prepared: Prepared, owner: str, context: RequestContext, reservation: Reservation
    ) -> Run:
        """Generate a response in the background. Raises StateUnavailableError if it can't be stored."""
        assert self._runs is not None
        return await self._runs.begin(prepared, owner, context, reservation)
