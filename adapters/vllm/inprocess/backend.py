"""`InferenceBackend` over vLLM's AsyncLLM.

Importing this module imports vLLM: `engine_args.prepare_environment` comes first.
"""

import asyncio
import contextlib
import itertools
import time
import traceback
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import msgspec
import torch
from vllm.envs import enable_envs_cache
from vllm.exceptions import GracefulHTTPError, VLLMClientError
from vllm.pooling_params import PoolingParams
from vllm.renderers import TokenizeParams
from vllm.renderers.inputs.preprocess import parse_model_prompt
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from adapters.models.hardware import gpu_bytes_of, ram_bytes_of
from adapters.vllm.dialect import fill_in_the_middle
from adapters.vllm.dialect.refusals import form_param, not_a_chat_model, refusal
from adapters.vllm.dialect.request_fields import is_cut
from adapters.vllm.inprocess.chat import Chat
from adapters.vllm.inprocess.choices import Choices
from adapters.vllm.inprocess.engine import EngineThread
from adapters.vllm.inprocess.engine_args import EngineSetup
from adapters.vllm.inprocess.quick_tokenizer import QuickTokenizer, quick_tokenizer
from adapters.vllm.inprocess.statistics import EngineStatistics
from adapters.vllm.inprocess.translate import finish_reason, output_logprobs, sampling_params
from adapters.vllm.inprocess.watchdog import Watchdog
from domain.conversation import Conversation
from domain.errors import (
    BackendFailedError,
    BackendUnavailableError,
    ContextLengthError,
    EngineDiedError,
    EngineHungError,
    InferenceError,
    TooManyTokensError,
    WrongEndpointError,
)
from domain.health import EngineMemory, MemoryMeter
from domain.memory_plan import EnginePlan
from domain.port import ModelCard, RequestContext, StepListener, ignore_step
from domain.requests import MAX_EMBEDDING_TOKENS, EmbeddingRequest, GenerationRequest, Prompt, TokenizeRequest
from domain.results import EmbeddingResult, GenerationEvent, GenerationUsage, Tokenization
from domain.roles import Role
from domain.sampling import SamplingParameters
from domain.statistics import Family, LocalEngine

RETRY_AFTER_S = 10
CANARY = RequestContext(request_id="canary")
CANARY_AFTER_S = 15.0
CANARY_PATIENCE_S = 1.0
UNSAMPLED = {"traceparent": "00-00000000000000000000000000000001-0000000000000001-00"}
"""A parent that nobody has recorded (W3C Trace Context, trace-flags), so its children are not either."""
INLINE_CHARACTERS = 8192
"""Prompts up to this length together are tokenized where they are, in some 2 ms at the most; handing them to a
thread and back costs more than that takes for a usual one, and longer ones would hold up everybody else."""

REFUSALS = (VLLMClientError, GracefulHTTPError, ValueError)
"""What vLLM raises of a request that it does not take; anything else is a failure of the engine."""


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
        """Make the backend; nothing starts yet.

        Args:
            role: what the model is for.
            name: the model's name for clients.
            setup: vLLM's configuration (`engine_args.engine_setup`).
            start_lock: shared by engines that must start one after the other, because each measures the
                free memory of the same card; None lets this one start at any time.
            hang_s: seconds without a sign of work after which the engine hangs, if it has work.
            counts: whether the engine counts what it does, for `families`.
            memory_plan: what the engine is meant to hold; None where nobody could plan it.
        """
        self._role = role
        self._name = name
        self._config = setup.config
        self._traces = setup.config.observability_config.otlp_traces_endpoint is not None
        self._chat_options = setup.chat
        self._max_model_len = int(setup.config.model_config.max_model_len)
        self._start_lock = start_lock
        self._hang_s = hang_s
        self._statistics = EngineStatistics(name) if counts else None
        self._memory_plan = memory_plan
        self._thread: EngineThread | None = None
        self._watchdog: Watchdog | None = None
        self._engine: AsyncLLM | None = None
        self._chat: Chat | None = None
        self._tokenizer: QuickTokenizer | None = None
        self._sampling_defaults: dict[str, Any] = {}
        # vLLM wants ids that are unique among running requests; a client's own id need not be.
        self._sequence = itertools.count()
        self._canaries: set[asyncio.Task[None]] = set()

    async def start(self, on_step: StepListener = ignore_step) -> ModelCard:
        """See the port."""
        if self._start_lock is not None and self._start_lock.locked():
            on_step("waiting for the other engine")
        async with self._start_lock or contextlib.nullcontext():
            # vLLM adds to it what the new engine tells.
            self._config.cache_config.num_gpu_blocks = None
            # A thread of its own for each engine, however often one is lost.
            thread = self._thread = EngineThread(self._config, name=self._name, statistics=self._statistics)
            self._engine = await thread.start(on_step)
        self._watchdog = Watchdog(thread.processes, hang_s=self._hang_s)
        on_step("warming up")
        # What vLLM reads of the environment no longer changes; looking it up costs something for each token.
        enable_envs_cache()
        model_config = self._config.model_config
        self._tokenizer = quick_tokenizer(self._engine.renderer, model_config)
        self._sampling_defaults = model_config.get_diff_sampling_param()
        if self._role is Role.GENERATE:
            self._chat = await asyncio.to_thread(Chat, model_config, self._engine.renderer, self._chat_options)
            await asyncio.to_thread(self._chat.warm_up)
        return ModelCard(
            name=self._name,
            role=self._role,
            created=int(time.time()),
            max_model_len=self._max_model_len,
            reports_tokens_per_input=True,
        )

    async def stop(self) -> None:
        """See the port."""
        engine, thread = self._engine, self._thread
        self._engine = self._chat = self._watchdog = self._thread = None
        if thread is not None:
            await thread.stop()
        if self._statistics is not None:
            self._statistics.forget_state()
        if engine is not None:
            # Who still waits for an engine that was given up waits for nothing.
            engine.output_processor.propagate_error(EngineDeadError())

    def memory(self) -> EngineMemory | None:
        """What the engine was meant to hold and holds. Blocks for some ten milliseconds."""
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
        """See the port. An engine that hangs is killed, so that whoever waits for it hears of it.

        Raises:
            EngineDiedError: its process has ended.
            EngineHungError: its process is there and does nothing.
        """
        engine, watchdog, thread = self._running(), self._watchdog, self._thread
        if watchdog is None or thread is None:
            return
        with self._translated("input"):
            await engine.check_health()
            if time.monotonic() - watchdog.last_progress > CANARY_AFTER_S and not self.unfinished_requests():
                await self._ask_something()
        reason = watchdog.hangs(has_work=self.unfinished_requests() > 0)
        if reason is not None:
            await asyncio.to_thread(thread.kill)
            raise EngineHungError(f"The engine of '{self._name}' hangs: {reason}.", retry_after_s=RETRY_AFTER_S)

    async def _ask_something(self) -> None:
        """A canary: one token through an engine that nobody has asked anything for a while."""
        work = asyncio.create_task(self._canary())
        self._canaries.add(work)
        work.add_done_callback(self._canaries.discard)
        # If it takes longer it is work that is not done, which is the watchdog's to judge.
        await asyncio.wait([work], timeout=CANARY_PATIENCE_S)

    async def _canary(self) -> None:
        with contextlib.suppress(InferenceError):
            if self._role is Role.EMBED:
                await self.embed(EmbeddingRequest(inputs=[[0]]), CANARY)
                return
            request = GenerationRequest(prompt=[0], sampling=SamplingParameters(max_tokens=1))
            async with contextlib.aclosing(self.generate(request, CANARY)) as events:
                async for _ in events:
                    pass

    def process_ids(self) -> list[int]:
        """See `LocalEngine`."""
        thread = self._thread
        return [process.pid for process in thread.processes()] if thread is not None else []

    def families(self) -> Iterable[Family]:
        """See `LocalEngine`."""
        return self._statistics.families() if self._statistics is not None else ()

    def unfinished_requests(self) -> int:
        """Requests that the engine is working on."""
        return self._engine.get_num_unfinished_requests() if self._engine is not None else 0

    async def embed(self, request: EmbeddingRequest, context: RequestContext) -> EmbeddingResult:
        """See the port."""
        self._require_role(Role.EMBED)
        with self._translated("input"):
            engine = self._running()
            rendered = await self._render(
                engine,
                request.inputs,
                truncate=request.truncate_prompt_tokens,
                add_special_tokens=request.add_special_tokens,
            )
            counts = [len(item["prompt_token_ids"]) for item in rendered]
            tokens = sum(counts)
            if tokens > MAX_EMBEDDING_TOKENS:
                raise TooManyTokensError(tokens, MAX_EMBEDDING_TOKENS)
            rows = await self._encode(engine, rendered, self._changed_dimensions(request.dimensions), context)
        return EmbeddingResult(
            vectors=b"".join(rows), dimensions=len(rows[0]) // 4, prompt_tokens=tokens, input_tokens=counts
        )

    async def generate(
        self, request: GenerationRequest, context: RequestContext
    ) -> AsyncGenerator[GenerationEvent, None]:
        """See the port."""
        self._require_role(Role.GENERATE)
        if isinstance(request.prompt, Conversation):
            events = self._answer(request, request.prompt, context)
        else:
            events = self._continue(request, request.prompt, context)
        async with contextlib.aclosing(events):
            async for event in events:
                yield event

    async def tokenize(self, request: TokenizeRequest, context: RequestContext) -> Tokenization:
        """See the port."""
        with self._translated("prompt" if isinstance(request.prompt, str) else "messages"):
            engine = self._running()
            tokenizer = engine.get_tokenizer()
            if isinstance(request.prompt, Conversation):
                token_ids = await self._running_chat().tokenize(
                    request.prompt, add_special_tokens=bool(request.add_special_tokens)
                )
            else:
                unlimited = TokenizeParams(
                    max_total_tokens=None,
                    max_output_tokens=0,
                    add_special_tokens=request.add_special_tokens is not False,
                )
                parsed = parse_model_prompt(self._config.model_config, request.prompt)
                (rendered,) = await engine.renderer.render_cmpl_async([parsed], unlimited)
                token_ids = rendered["prompt_token_ids"]
        strings = tokenizer.convert_ids_to_tokens(token_ids) if request.with_strings else None
        return Tokenization(token_ids=list(token_ids), strings=strings)

    async def detokenize(self, token_ids: list[int], context: RequestContext) -> str:
        """See the port."""
        with self._translated("tokens"):
            engine = self._running()
            engine.renderer.validate_token_ids(token_ids, parameter="tokens")
            return str(engine.get_tokenizer().decode(token_ids))

    async def _continue(
        self, request: GenerationRequest, prompt: Prompt, context: RequestContext
    ) -> AsyncGenerator[GenerationEvent, None]:
        """A completion."""
        with self._translated("prompt", request) as progress:
            engine = self._running()
            (rendered,) = await self._render(
                engine,
                [self._filled_in(engine, prompt, request.suffix)],
                detokenize=request.echo,
                truncate=request.truncate_prompt_tokens,
                add_special_tokens=request.add_special_tokens is not False,
            )
            prompt_tokens = len(rendered["prompt_token_ids"])
            room = self._max_model_len - prompt_tokens
            if room < 1:
                raise ContextLengthError(self._max_model_len, param="prompt")
            params = sampling_params(request, model_defaults=self._sampling_defaults, room=room)
            choices = Choices(
                request, prompt_text=self._echoed(request, rendered), tokenizer=engine.get_tokenizer()
            )
            # Nothing is parsed as thinking here, so a form holds from the first token on.
            outputs = engine.generate(
                rendered,
                params,
                self._request_id(context),
                reasoning_ended=True,
                trace_headers=self._trace_headers(context),
            )
            async with contextlib.aclosing(outputs):
                async for output in outputs:
                    progress.has_output = True
                    self._progressed()
                    for delta in choices.deltas(output):
                        yield delta
            yield GenerationUsage(prompt_tokens=prompt_tokens, completion_tokens=choices.completion_tokens)

    async def _answer(
        self, request: GenerationRequest, conversation: Conversation, context: RequestContext
    ) -> AsyncGenerator[GenerationEvent, None]:
        """A chat completion."""
        with self._translated("messages", request) as progress:
            engine = self._running()
            rendered = await self._running_chat().render(request, conversation)
            prompt_tokens = len(rendered.prompt_token_ids)
            if prompt_tokens >= self._max_model_len:
                raise ContextLengthError(self._max_model_len, param="messages")
            params = rendered.sampling_params()
            tokenizer, count = engine.get_tokenizer(), request.sampling.logprobs
            completion_tokens = 0
            outputs = engine.generate(
                rendered.engine_input,
                params,
                self._request_id(context),
                trace_headers=self._trace_headers(context),
                **rendered.engine_arguments(),
            )
            async with contextlib.aclosing(outputs):
                async for output in outputs:
                    progress.has_output = True
                    self._progressed()
                    for choice in output.outputs:
                        completion_tokens += len(choice.token_ids)
                        delta = rendered.delta(choice, stream=request.stream)
                        logprobs = output_logprobs(choice, count, tokenizer) if count is not None else None
                        has_thought = rendered.begins_with_thinking and completion_tokens > 0
                        reason = finish_reason(choice, request, has_thought=has_thought)
                        delta = msgspec.structs.replace(delta, logprobs=logprobs, finish_reason=reason)
                        if delta.says_something:
                            yield delta
            yield GenerationUsage(
                prompt_tokens=prompt_tokens,
                completion_tokens=completion_tokens,
                reasoning_tokens=rendered.reasoning_tokens(),
            )

    def _progressed(self) -> None:
        if self._watchdog is not None:
            self._watchdog.progress()

    def _running(self) -> AsyncLLM:
        if self._engine is None:
            raise BackendUnavailableError(f"The engine of '{self._name}' is not running.")
        return self._engine

    def _running_chat(self) -> Chat:
        if self._chat is None:
            raise not_a_chat_model(self._name)
        return self._chat

    def _require_role(self, role: Role) -> None:
        if role is not self._role:
            raise WrongEndpointError(f"The model '{self._name}' can't {role}.", param="model")

    def _trace_headers(self, context: RequestContext) -> Mapping[str, str] | None:
        """What vLLM joins its span to. A request without a trace, such as a canary, gets no span of its own."""
        return (context.trace or UNSAMPLED) if self._traces else None

    def _request_id(self, context: RequestContext) -> str:
        return f"{context.request_id}-{next(self._sequence)}"

    async def _render(
        self,
        engine: AsyncLLM,
        prompts: list[Prompt],
        *,
        truncate: int | None,
        add_special_tokens: bool,
        detokenize: bool = False,
    ) -> list[Any]:
        """Tokenize; raises vLLM's own error for what is too long or not in the vocabulary."""
        renderer = engine.renderer
        params = replace(
            renderer.default_cmpl_tok_params,
            # A generator keeps a token's room for its answer when it cuts a prompt; an embedder needs none.
            max_output_tokens=0 if self._role is Role.EMBED else 1,
            needs_detokenization=detokenize,
            truncate_prompt_tokens=truncate,
            add_special_tokens=add_special_tokens,
        )
        is_short = not detokenize and sum(map(len, prompts)) <= INLINE_CHARACTERS
        if is_short and self._tokenizer is not None and truncate is None:
            prompts = self._tokenizer.encode(prompts, add_special_tokens=add_special_tokens)
        parsed = [
            parse_model_prompt(
                self._config.model_config,
                prompt if isinstance(prompt, str) else {"prompt_token_ids": prompt},
            )
            for prompt in prompts
        ]
        rendered: list[Any]
        if is_short:
            rendered = renderer.render_cmpl(parsed, params)
        else:
            rendered = await renderer.render_cmpl_async(parsed, params)
        return rendered

    def _filled_in(self, engine: AsyncLLM, prompt: Prompt, suffix: str | None) -> Prompt:
        """The prompt, or the one that asks for what stands before a suffix."""
        if suffix is None or not isinstance(prompt, str):
            return prompt
        tokenizer = engine.get_tokenizer()
        for markers in fill_in_the_middle.KNOWN:
            if all(len(tokenizer.encode(marker, add_special_tokens=False)) == 1 for marker in markers):
                return markers.render(prompt, suffix)
        raise fill_in_the_middle.not_supported(self._name)

    def _echoed(self, request: GenerationRequest, rendered: Any) -> str:
        """The text of the prompt as the model saw it; empty if nobody asks for it."""
        token_ids = rendered["prompt_token_ids"]
        if request.echo and is_cut(request, len(token_ids), self._max_model_len):
            return str(self._running().get_tokenizer().decode(token_ids))
        return rendered.get("prompt") or ""

    def _changed_dimensions(self, wanted: int | None) -> int | None:
        """The dimensions to ask vLLM for: None where the model's own are wanted.

        vLLM refuses the parameter for every model that was not trained for several sizes, the native size
        included, which is harmless.
        """
        native = self._config.model_config.embedding_size
        return None if wanted == native else wanted

    async def _encode(
        self, engine: AsyncLLM, rendered: list[Any], dimensions: int | None, context: RequestContext
    ) -> list[bytes]:
        """All inputs' vectors as float32 bytes.

        All are handed to the engine before the first is waited for, so that it batches them; that takes no
        task for each, as `AsyncLLM.encode` would, but what is left undone must be aborted here.
        """
        params = PoolingParams(task="embed", dimensions=dimensions)
        trace_headers = self._trace_headers(context)
        pending: list[Any] = []
        rows: list[bytes] = []
        try:
            # One by one, so that what has been handed over is known if the next one fails.
            for item in rendered:
                pending += [
                    await engine.add_request(self._request_id(context), item, params, trace_headers=trace_headers)
                ]
            for output in pending:
                data = (await output.get()).outputs.data
                self._progressed()
                rows += [data.to(torch.float32).contiguous().numpy().tobytes()]
        except EngineDeadError:
            raise
        except BaseException as error:
            await engine.abort([output.request_id for output in pending[len(rows) :]], internal=True)
            if isinstance(error, Exception) and not isinstance(error, REFUSALS):
                raise EngineGenerateError from error
            raise
        return rows

    @contextlib.contextmanager
    def _translated(self, param: str, request: GenerationRequest | None = None) -> Iterator["_Progress"]:
        """Let only the domain's errors out, and those that nobody foresaw."""
        progress = _Progress()
        try:
            yield progress
        except InferenceError:
            raise
        except EngineDeadError as error:
            raise EngineDiedError(
                f"The engine of '{self._name}' has ended unexpectedly and is started again. Try again soon.",
                retry_after_s=RETRY_AFTER_S,
            ) from error
        except GracefulHTTPError as error:
            raise BackendUnavailableError(
                f"The engine of '{self._name}' is overloaded. Please try again.", retry_after_s=1
            ) from error
        except (VLLMClientError, ValueError) as error:
            if not isinstance(error, VLLMClientError) and (progress.has_output or _is_ours(error)):
                # Nobody's refusal, but a defect, whose words mean nothing to a client.
                raise
            message = str(error.args[0]) if error.args else str(error)
            raise refusal(
                message,
                param=param,
                form_param=form_param(request),
                model=self._name,
                max_model_len=self._max_model_len,
            ) from error
        except EngineGenerateError as error:
            raise BackendFailedError(
                f"The engine of '{self._name}' failed on this request. Please try again."
            ) from error


class _Progress:
    """How far a request has come."""

    has_output = False
    """Whether the engine has begun to answer: then it has refused nothing."""


def _is_ours(error: Exception) -> bool:
    """Whether an error was raised by this service's own code, and not by vLLM or something below it."""
    *_, (frame, _line) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).startswith(("adapters.", "domain."))
