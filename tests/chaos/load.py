"""Mixed load in which every answer is checked, and what became of each request is counted.

An answer is right, or an honest error in OpenAI's shape, or it is wrong, or it is lost: no answer at all while
the service was there to give one.
"""

import asyncio
import contextlib
import itertools
import json
import math
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

import httpx
import msgspec

from tests.chaos.health_watch import HealthWatch

TEXTS = [f"The quick brown fox number {number} jumps over the lazy dog." for number in range(8)]
PROMPTS = ["The quick brown", "A service that runs", "Paris is the capital", "Numbers such as"]
TOKENS = 24
LOST_AFTER_S = 120.0
"""No request takes as long as that, whatever happens to an engine meanwhile."""
HONEST = {429, 500, 502, 503, 504}
"""Statuses of a service that says that it can't, or can't now."""


class Tally(msgspec.Struct):
    """What became of requests."""

    right: int = 0
    refused: int = 0
    """Honest errors, streams that ended with an error event among them."""
    wrong: int = 0
    lost: int = 0
    notes: list[str] = []
    """What was wrong or lost, the first few."""

    def note(self, text: str) -> None:
        if len(self.notes) < 20:
            self.notes.append(text)

    def __sub__(self, before: "Tally") -> "Tally":
        """What came since."""
        return Tally(
            right=self.right - before.right,
            refused=self.refused - before.refused,
            wrong=self.wrong - before.wrong,
            lost=self.lost - before.lost,
        )


class Truth(msgspec.Struct):
    """What right answers are: asked once, while nothing is wrong."""

    vectors: dict[str, list[float]]
    texts: dict[str, str]
    scores: dict[str, list[float]]


class Load:
    """Clients of all kinds that go on until they are told to stop."""

    def __init__(self, url: str, models: Mapping[str, str]) -> None:
        """Make the load; it asks nothing yet.

        Args:
            url: of the service.
            models: the model of each role that is asked.
        """
        self.url = url
        self.models = models
        self.tallies: dict[str, Tally] = {role: Tally() for role in models}
        self.statuses: Counter[str] = Counter()
        self.under_way: dict[str, int] = dict.fromkeys(models, 0)
        self.health = HealthWatch()
        self.is_service_there = True
        self.clients = 0
        """Of each kind, at the moment."""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
        self.http = httpx.AsyncClient(base_url=url, timeout=LOST_AFTER_S, limits=limits, trust_env=False)
        self.truth: Truth | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._may_ask = asyncio.Event()
        self._may_ask.set()
        self._pauses = 0

    @property
    def is_service_there(self) -> bool:
        """False while the service itself is being stopped or started, when no request is answered."""
        return self.health.service_url is not None

    @is_service_there.setter
    def is_service_there(self, is_there: bool) -> None:
        self.health.service_url = self.url if is_there else None

    async def learn(self) -> None:
        """Ask for everything once."""
        vectors = {text: await self._vector(text) for text in TEXTS}
        texts = {prompt: await self._completion(prompt) for prompt in PROMPTS}
        scores = {prompt: await self._scores(prompt) for prompt in PROMPTS} if "rerank" in self.models else {}
        self.truth = Truth(vectors=vectors, texts=texts, scores=scores)

    @contextlib.asynccontextmanager
    async def running(self, clients: int = 4) -> AsyncGenerator[None, None]:
        """Load from so many clients of each kind for as long as the block runs."""
        kinds = [self.embed, self.complete, self.stream, self.chat]
        if "rerank" in self.models:
            kinds.append(self.rerank)
        self.clients = clients
        self._tasks = [
            asyncio.create_task(self._again(kind, number)) for kind in kinds for number in range(clients)
        ]
        self.health.start()
        try:
            yield
        finally:
            self.health.stop()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def paused(self) -> AsyncGenerator[None, None]:
        """Send no request for as long as the block runs. Blocks may be nested."""
        self._pauses += 1
        self._may_ask.clear()
        try:
            while any(self.under_way.values()):
                await asyncio.sleep(0.05)
            yield
        finally:
            self._pauses -= 1
            if not self._pauses:
                self._may_ask.set()

    async def close(self) -> None:
        """Close all connections."""
        await self.http.aclose()

    async def answers(self, role: str) -> bool:
        """Whether an uncounted request is answered correctly."""
        assert self.truth is not None
        try:
            if role == "embed":
                return cosine(await self._vector(TEXTS[0]), self.truth.vectors[TEXTS[0]]) > 0.9999
            if role == "rerank":
                return are_equal(await self._scores(PROMPTS[0]), self.truth.scores[PROMPTS[0]])
            return await self._completion(PROMPTS[0]) == self.truth.texts[PROMPTS[0]]
        except (RefusedError, httpx.HTTPError, OSError):
            return False

    # Each asks once, and counts what comes of it.

    async def embed(self, number: int = 0) -> None:
        """An embedding against the known vector."""
        text = TEXTS[number % len(TEXTS)]
        async with self._counted("embed") as tally:
            vector = await self._vector(text)
            assert self.truth is not None
            if cosine(vector, self.truth.vectors[text]) > 0.9999:
                tally.right += 1
            else:
                tally.wrong += 1
                tally.note(f"another vector for {text!r}")

    async def rerank(self, number: int = 0) -> None:
        """All texts, sorted, against the known scores."""
        query = PROMPTS[number % len(PROMPTS)]
        async with self._counted("rerank") as tally:
            scores = await self._scores(query)
            assert self.truth is not None
            if are_equal(scores, self.truth.scores[query]):
                tally.right += 1
            else:
                tally.wrong += 1
                tally.note(f"other scores for {query!r}")

    async def ask(self, role: str, number: int) -> None:
        """One request of a role."""
        await {"embed": self.embed, "rerank": self.rerank, "generate": self.complete}[role](number)

    async def complete(self, number: int = 0) -> None:
        """A completion at temperature 0 against the known text."""
        prompt = PROMPTS[number % len(PROMPTS)]
        async with self._counted("generate") as tally:
            self._judge(tally, prompt, await self._completion(prompt))

    async def stream(self, number: int = 0) -> None:
        """A streamed one: whole only if its end mark came."""
        prompt = PROMPTS[number % len(PROMPTS)]
        async with self._counted("generate") as tally:
            self._judge(tally, prompt, await self._streamed(prompt))

    async def chat(self, number: int = 0) -> None:
        """A chat, which has to be whole and of the wanted length; what it says depends on a template."""
        body = {
            "model": self.models["generate"],
            "messages": [{"role": "user", "content": PROMPTS[number % len(PROMPTS)]}],
            "max_tokens": TOKENS,
            "temperature": 0,
            "ignore_eos": True,
        }
        async with self._counted("generate") as tally:
            answer = await self._post("/v1/chat/completions", body)
            if (
                answer["usage"]["completion_tokens"] == TOKENS
                and answer["choices"][0]["finish_reason"] == "length"
            ):
                tally.right += 1
            else:
                tally.wrong += 1
                tally.note(f"a chat of {answer['usage']} ended by {answer['choices'][0]['finish_reason']}")

    async def _again(self, ask: Callable[[int], Awaitable[None]], first: int) -> None:
        for number in itertools.count(first):
            await self._may_ask.wait()
            before = self.refusals
            await ask(number)
            # Who hears no waits a little, as clients do.
            await asyncio.sleep(0.2 if self.refusals > before else 0)

    @property
    def refusals(self) -> int:
        return sum(tally.refused for tally in self.tallies.values())

    def _judge(self, tally: Tally, prompt: str, text: str) -> None:
        assert self.truth is not None
        if text == self.truth.texts[prompt]:
            tally.right += 1
        else:
            tally.wrong += 1
            tally.note(f"{prompt!r} was continued with {text!r} instead of {self.truth.texts[prompt]!r}")

    @contextlib.asynccontextmanager
    async def _counted(self, role: str) -> AsyncGenerator[Tally, None]:
        tally = self.tallies[role]
        self.under_way[role] += 1
        try:
            yield tally
        except RefusedError as refused:
            tally.refused += 1
            self.statuses[f"{role} {refused}"] += 1
        except (httpx.HTTPError, OSError) as error:
            if self.is_service_there:
                tally.lost += 1
                tally.note(f"no answer: {type(error).__name__} {error}")
            else:
                tally.refused += 1
                self.statuses[f"{role} connection refused"] += 1
        except (KeyError, ValueError, AssertionError) as error:
            tally.wrong += 1
            tally.note(f"an answer that is none: {type(error).__name__} {error}")
        finally:
            self.under_way[role] -= 1

    # What is asked.

    async def _vector(self, text: str) -> list[float]:
        answer = await self._post("/v1/embeddings", {"model": self.models["embed"], "input": text})
        vector: list[float] = answer["data"][0]["embedding"]
        return vector

    async def _scores(self, query: str) -> list[float]:
        body = {"model": self.models["rerank"], "query": query, "documents": TEXTS}
        results = (await self._post("/v1/rerank", body))["results"]
        assert [result["relevance_score"] for result in results] == sorted(
            (result["relevance_score"] for result in results), reverse=True
        ), "sorted"
        return [result["relevance_score"] for result in sorted(results, key=lambda result: result["index"])]

    async def _completion(self, prompt: str) -> str:
        answer = await self._post("/v1/completions", self._completion_body(prompt))
        assert answer["usage"]["completion_tokens"] == TOKENS, "a whole answer"
        text: str = answer["choices"][0]["text"]
        return text

    async def _streamed(self, prompt: str) -> str:
        parts: list[str] = []
        is_whole = False
        body = self._completion_body(prompt) | {"stream": True}
        async with self.http.stream("POST", "/v1/completions", json=body) as response:
            if response.status_code != 200:
                raise _refusal(response.status_code, await response.aread())
            async for line in response.aiter_lines():
                data = line.removeprefix("data: ")
                if not line or line.startswith(":"):
                    continue
                if data == "[DONE]":
                    is_whole = True
                    continue
                event = json.loads(data)
                if "error" in event:
                    raise RefusedError(f"event {event['error']['code']}")
                parts += [choice["text"] for choice in event["choices"]]
        if not is_whole:
            raise httpx.RemoteProtocolError("The stream ended without a mark of its end, or an error.")
        return "".join(parts)

    def _completion_body(self, prompt: str) -> dict[str, object]:
        return {
            "model": self.models["generate"],
            "prompt": prompt,
            "max_tokens": TOKENS,
            "temperature": 0,
            "ignore_eos": True,
        }

    async def _post(self, path: str, body: dict[str, object]) -> dict:
        response = await self.http.post(path, json=body)
        if response.status_code != 200:
            raise _refusal(response.status_code, response.content)
        answer: dict = response.json()
        return answer


class RefusedError(Exception):
    """The service said, in OpenAI's shape, that it can't."""


def _refusal(status: int, body: bytes) -> Exception:
    try:
        error = json.loads(body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert status in HONEST
    except (ValueError, KeyError, TypeError, AssertionError):
        return ValueError(f"status {status} with {body[:200]!r}")
    return RefusedError(f"{status} {error['code']}")


def are_equal(scores: list[float], known: list[float]) -> bool:
    """Whether scores are the same but for the order in which numbers are added."""
    return len(scores) == len(known) and all(
        math.isclose(score, wanted, abs_tol=1e-4) for score, wanted in zip(scores, known, strict=True)
    )


def cosine(a: list[float], b: list[float]) -> float:
    """Of two vectors."""
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))
