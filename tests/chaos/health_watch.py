"""How long the answer of `/health` takes while everything else goes on."""

import http.client
import json
import threading
import time
from collections import Counter
from urllib.parse import urlsplit

INTERVAL_S = 0.1
BOUND_S = 0.1
"""What is promised: an answer within this time under full load."""
TIMEOUT_S = 10.0


class HealthWatch:
    """Asks ten times a second, from a thread of its own: the load's event loop is busy with its own answers."""

    def __init__(self) -> None:
        self.answers_s: list[float] = []
        self.late: Counter[str] = Counter()
        """Answers over the bound, by what went on meanwhile."""
        self.unanswered = 0
        """Refused or broken off while the service was there."""
        self.meanwhile = "nothing"
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
        late = self.late.total()
        median, p99 = (seen[int(share * (len(seen) - 1))] * 1000 for share in (0.5, 0.99))
        return (
            f"{len(seen)} answers, median {median:.1f} ms, 99 of 100 within {p99:.0f} ms, longest "
            f"{seen[-1] * 1000:.0f} ms; {late} over {BOUND_S * 1000:.0f} ms{self._when()}; "
            f"{self.unanswered} unanswered."
        )

    def _when(self) -> str:
        """During what the late ones were asked."""
        told = ", ".join(f"{count} during {fault!r}" for fault, count in self.late.most_common())
        return f" ({told})" if told else ""

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
        except TimeoutError:
            # As late as this watch can tell.
            self._count(TIMEOUT_S)
            return
        except (OSError, http.client.HTTPException):
            if self.service_url is not None:
                self.unanswered += 1
            return
        finally:
            connection.close()
        if "backends" in answer:
            self._count(time.perf_counter() - began)

    def _count(self, took_s: float) -> None:
        self.answers_s.append(took_s)
        if took_s > BOUND_S:
            self.late[self.meanwhile] += 1
