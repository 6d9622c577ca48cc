"""Implements `InferenceBackend` on vLLM's AsyncLLM: starts, monitors and stops one engine, and runs requests.

Importing this module imports vLLM, so call `engine_args.prepare_environment` first.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Iterable

from vllm.envs import enable_envs_cache
from vllm.v1.engine.exceptions import EngineDeadError

from adapters.models.hardware import gpu_bytes_of, ram_bytes_of
from adapters.vllm.dialect.refusals import not_a_chat_model
from adapters.vllm.inprocess.chat import Chat
from adapters.vllm.inprocess.embedding import embed
from adapters.vllm.inprocess.engine import EngineThread
from adapters.vllm.inprocess.engine_args import EngineSetup
from adapters.vllm.inprocess.generation import generate
from adapters.vllm.inprocess.running_engine import RETRY_AFTER_S, RunningEngine
from adapters.vllm.inprocess.scoring import Scoring
from adapters.vllm.inprocess.statistics import EngineStatistics
from adapters.vllm.inprocess.watchdog import Watchdog
from adapters.vllm.operations import Operations
from domain.choices import collect
from domain.conversation import Conversation
from domain.errors import BackendUnavailableError, EngineHungError, InferenceError
from domain.health import EngineMemory, MemoryMeter
from domain.memory_plan import EnginePlan
from domain.policies.warm_up import WARM_UP
from domain.port import Events, ModelCard, RequestContext, StepListener, ignore_step
from domain.requests import (
    DetokenizeRequest,
    EmbeddingRequest,
    GenerationRequest,
    Request,
    ResultT,
    ScoreRequest,
    TokenizeRequest,
)
from domain.results import EmbeddingResult, GenerationResult, ScoreResult, Tokenization
from domain.roles import ROLES, Role
from domain.statistics import Family, LocalEngine
from domain.streams import open_stream

CANARY = RequestContext(request_id="canary")
CANARY_AFTER_S = 15.0
CANARY_TIMEOUT_S = 1.0


class VLLMInProcessBackend(LocalEngine, MemoryMeter):
    """One model on an AsyncLLM of this process."""

    def __init__(
        self,
        *,
        role: Role,
        name: str,
        setup: EngineSetup,
        start_lock: asyncio.Lock | None = None,
        hang_s: float = 30.0,
        counts: bool = False,
        memory_plan: EnginePlan | None = None,
    ) -> None:
        """Create the backend without starting the engine.

        Args:
            role: the model's role.
            name: the model's name for clients.
            setup: vLLM's configuration (`engine_args.engine_setup`).
            start_lock: shared by engines that must start one at a time, because each measures the free memory
                of the same GPU; None allows a start at any time.
            hang_s: seconds without output or CPU time after which an engine with unfinished requests is hung.
            counts: whether the engine collects metrics, for `families`.
            memory_plan: the engine's planned memory; None if it could not be planned.
        """
        self._role = role
        self._name = name
        self._config = setup.config
        self._chat_options = setup.chat
        self._start_lock = start_lock
        self._hang_s = hang_s
        self._statistics = EngineStatistics(name) if counts else None
        self._memory_plan = memory_plan
        self._thread: EngineThread | None = None
        self._watchdog: Watchdog | None = None
        self._generated_tokens = 0
        self._engine: RunningEngine | None = None
        self._chat: Chat | None = None
        self._scoring: Scoring | None = None
        self._operations = Operations(
            role,
            {
                EmbeddingRequest: self._embed,
                ScoreRequest: self._score,
                GenerationRequest: self._generate,
                TokenizeRequest: self._tokenize,
                DetokenizeRequest: self._detokenize,
            },
            model=lambda: self._name,
        )
        self._canaries: set[asyncio.Task[None]] = set()

    async def start(self, on_step: StepListener = ignore_step) -> ModelCard:
        """See the port."""
        if self._start_lock is not None and self._start_lock.locked():
            on_step("waiting for the other engine")
        async with self._start_lock or contextlib.nullcontext():
            # vLLM adds the new engine's number of blocks to this value.
            self._config.cache_config.num_gpu_blocks = None
            # Each engine gets a new thread, also after a crash.
            thread = self._thread = EngineThread(self._config, name=self._name, statistics=self._statistics)
            engine = await thread.start(on_step)
        watchdog = self._watchdog = Watchdog(thread.processes, hang_s=self._hang_s)
        on_step("warming up")
        # vLLM's environment variables no longer change; without the cache it looks them up for every token.
        enable_envs_cache()
        self._engine = RunningEngine(
            engine,
            self._config,
            name=self._name,
            output_reserve=1 if ROLES[self._role].generates else 0,
            on_progress=watchdog.progress,
        )
        if ROLES[self._role].generates:
            model_config = self._config.model_config
            self._chat = await asyncio.to_thread(Chat, model_config, engine.renderer, self._chat_options)
            await asyncio.to_thread(self._chat.warm_up)
        elif self._role is Role.RERANK:
            self._scoring = await asyncio.to_thread(
                Scoring, self._engine, self._config, self._chat_options.chat_template
            )
        return ModelCard(
            name=self._name,
            role=self._role,
            created=int(time.time()),
            max_model_len=self._engine.max_model_len,
            max_sequences=int(self._config.scheduler_config.max_num_seqs),
            reports_tokens_per_input=True,
        )

    async def stop(self) -> None:
        """See the port."""
        running, thread = self._engine, self._thread
        self._engine = self._chat = self._scoring = self._watchdog = self._thread = None
        if thread is not None:
            await thread.stop()
        if self._statistics is not None:
            self._statistics.clear_gauges()
        if running is not None:
            # Otherwise requests that wait for an engine that was stopped would wait forever.
            running.engine.output_processor.propagate_error(EngineDeadError())

    def memory(self) -> EngineMemory | None:
        """The engine's planned and measured memory. Blocks for about ten milliseconds."""
        plan, thread = self._memory_plan, self._thread
        if plan is None:
            return None
        processes = thread.processes() if thread is not None else []
        on_gpu = plan.gpu_memory_utilization is not None
        blocks = self._config.cache_config.num_gpu_blocks if self._engine is not None else None
        return EngineMemory(
            planned=plan.parts,
            measured_bytes=gpu_bytes_of({process.pid for process in processes})
            if on_gpu
            else ram_bytes_of(processes),
            kv_cache_planned_bytes=plan.kv_cache_memory_bytes,
            kv_cache_bytes=blocks * plan.kv_block_bytes if blocks is not None else None,
        )

    async def probe(self) -> None:
        """See the port. Kills a hung engine, so that its requests fail instead of waiting.

        Raises:
            EngineDiedError: the engine's process has ended.
            EngineHungError: the engine's process is alive but makes no progress.
        """
        running, watchdog, thread = self._require_engine(), self._watchdog, self._thread
        if watchdog is None or thread is None:
            return
        with running.translate_errors("input"):
            await running.engine.check_health()
            if time.monotonic() - watchdog.last_progress > CANARY_AFTER_S and not self.unfinished_requests():
                await self._send_canary()
        # Whole answers produce no output before their end.
        tokens = running.generated_tokens()
        if tokens != self._generated_tokens:
            self._generated_tokens = tokens
            watchdog.progress()
        reason = watchdog.hangs(has_work=self.unfinished_requests() > 0)
        if reason is not None:
            await asyncio.to_thread(thread.kill)
            raise EngineHungError(f"The engine of '{self._name}' is hung: {reason}.", retry_after_s=RETRY_AFTER_S)

    async def _send_canary(self) -> None:
        """Send a minimal request to an engine that has been idle for a while."""
        work = asyncio.create_task(self._canary())
        self._canaries.add(work)
        work.add_done_callback(self._canaries.discard)
        # If it takes longer it counts as an unfinished request, which the watchdog handles.
        await asyncio.wait([work], timeout=CANARY_TIMEOUT_S)

    async def _canary(self) -> None:
        with contextlib.suppress(InferenceError):
            await self.call(WARM_UP[self._role], CANARY)

    def process_ids(self) -> list[int]:
        """See `LocalEngine`."""
        thread = self._thread
        return [process.pid for process in thread.processes()] if thread is not None else []

    def families(self) -> Iterable[Family]:
        """See `LocalEngine`."""
        return self._statistics.families() if self._statistics is not None else ()

    def unfinished_requests(self) -> int:
        """Number of requests that the engine has not finished."""
        return self._engine.engine.get_num_unfinished_requests() if self._engine is not None else 0

    async def call(self, request: Request[ResultT], context: RequestContext) -> ResultT:
        """See the port."""
        return await self._operations.call(request, context)

    @contextlib.asynccontextmanager
    async def stream(self, request: GenerationRequest, context: RequestContext) -> AsyncGenerator[Events, None]:
        """See the port."""
        self._operations.require_generation(request)
        async with open_stream(
            generate(self._require_engine(), self._chat, request, context, streams=True)
        ) as events:
            yield events

    async def _embed(self, request: EmbeddingRequest, context: RequestContext) -> EmbeddingResult:
        return await embed(self._require_engine(), request, context)

    async def _score(self, request: ScoreRequest, context: RequestContext) -> ScoreResult:
        if self._scoring is None:
            raise BackendUnavailableError(f"The engine of '{self._name}' is not running.")
        return await self._scoring.score(request, context)

    async def _generate(self, request: GenerationRequest, context: RequestContext) -> GenerationResult:
        return await collect(generate(self._require_engine(), self._chat, request, context, streams=False))

    async def _tokenize(self, request: TokenizeRequest, _context: RequestContext) -> Tokenization:
        running, prompt = self._require_engine(), request.prompt
        with running.translate_errors("prompt" if isinstance(prompt, str) else "messages"):
            if isinstance(prompt, Conversation):
                token_ids = await self._require_chat().tokenize(
                    prompt, add_special_tokens=bool(request.add_special_tokens)
                )
            else:
                token_ids = await running.tokenize(
                    prompt, add_special_tokens=request.add_special_tokens is not False
                )
        strings = running.tokenizer.convert_ids_to_tokens(token_ids) if request.with_strings else None
        return Tokenization(token_ids=list(token_ids), strings=strings)

    async def _detokenize(self, request: DetokenizeRequest, _context: RequestContext) -> str:
        running = self._require_engine()
        with running.translate_errors("tokens"):
            return running.detokenize(request.token_ids)

    def _require_engine(self) -> RunningEngine:
        if self._engine is None:
            raise BackendUnavailableError(f"The engine of '{self._name}' is not running.")
        return self._engine

    def _require_chat(self) -> Chat:
        if self._chat is None:
            raise not_a_chat_model(self._name)
        return self._chat
