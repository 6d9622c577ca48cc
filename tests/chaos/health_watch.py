"""How long the answer of `/health` takes while everything else goes on."""

import http.client
import json
import threading
import time
from urllib.parse import urlsplit

INTERVAL_S = 0.1
BOUND_S = 0.1
"""What is promised: an answer within this time under full load."""
TIMEOUT_S = 10.0


class HealthWatch:
    """Asks ten times a second, from a thread of its own: the load's event loop is busy with its own answers."""

    def __init__(self) -> None:
        self.answers_s: list[float] = []
        self.service_url: str | None = None
        """None while no service is there to ask."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """Ask no more."""
        self._stop.set()
        self._thread.join()

    def summary(self) -> str:
        """What was seen, in one sentence."""
        if not self.answers_s:
            return "`/health` was never asked."
        seen = sorted(self.answers_s)
        late = sum(took > BOUND_S for took in seen)
        median, p99 = (seen[int(share * (len(seen) - 1))] * 1000 for share in (0.5, 0.99))
        return (
            f"`/health` was asked {len(seen)} times meanwhile: median {median:.1f} ms, 99 of 100 within "
            f"{p99:.0f} ms, longest {seen[-1] * 1000:.0f} ms, {late} over {BOUND_S * 1000:.0f} ms."
        )

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL_S):
            if self.service_url is not None:
                self._ask(self.service_url)

    def _ask(self, url: str) -> None:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT_S)
        began = time.perf_counter()
        try:
            connection.request("GET", "/health")
            answer = json.loads(connection.getresponse().read())
        except (OSError, http.client.HTTPException):
            # The service is away, or the flood has all its connections: who asks for requests counts that.
            return
        finally:
            connection.close()
        if "backends" in answer:
            self.answers_s.append(time.perf_counter() - began)
