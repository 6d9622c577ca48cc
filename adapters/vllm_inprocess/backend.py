"""`InferenceBackend` over vLLM's AsyncLLM.

Importing this module imports vLLM: `engine_args.prepare_environment` comes first.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.exceptions import GracefulHTTPError, VLLMClientError
from vllm.outputs import RequestOutput
from vllm.pooling_params import PoolingParams
from vllm.renderers.inputs.preprocess import parse_model_prompt
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from adapters.vllm_inprocess.engine import EngineThread
from adapters.vllm_inprocess.translate import finish_reason, output_logprobs, prompt_logprobs, sampling_params
from adapters.vllm_messages import refusal
from domain.backend import (
    EmbeddingRequest,
    EmbeddingResult,
    GenerationDelta,
    GenerationEvent,
    GenerationRequest,
    GenerationUsage,
    ModelCard,
    Prompt,
    RequestContext,
    Role,
)
from domain.errors import (
    BackendFailedError,
    BackendUnavailableError,
    ContextLengthError,
    InferenceError,
    WrongEndpointError,
)


class VLLMInProcessBackend:
    """One model on an AsyncLLM of this process."""

    def __init__(
        self, *, role: Role, name: str, config: VllmConfig, start_lock: asyncio.Lock | None = None
    ) -> None:
        """Make the backend; nothing starts yet.

        Args:
            role: what the model is for.
            name: the model's name for clients.
            config: vLLM's configuration (`engine_args.engine_config`).
            start_lock: shared by engines that must start one after the other, because each measures the
                free memory of the same card; None lets this one start at any time.
        """
        self._role = role
        self._name = name
        self._config = config
        self._max_model_len = int(config.model_config.max_model_len)
        self._start_lock = start_lock
        self._thread = EngineThread(config, name=name)
        self._engine: AsyncLLM | None = None
        self._sampling_defaults: dict[str, Any] = {}
        # vLLM wants ids that are unique among running requests; a client's own id need not be.
        self._sequence = itertools.count()

    async def start(self) -> ModelCard:
        """See the port."""
        async with self._start_lock or contextlib.nullcontext():
            self._engine = await self._thread.start()
        self._sampling_defaults = self._config.model_config.get_diff_sampling_param()
        return ModelCard(
            name=self._name, role=self._role, created=int(time.time()), max_model_len=self._max_model_len
        )

    async def stop(self) -> None:
        """See the port."""
        self._engine = None
        await self._thread.stop()

    async def probe(self) -> None:
        """See the port."""
        with self._translated("input"):
            await self._running().check_health()

    def unfinished_requests(self) -> int:
        """Requests that the engine is working on."""
        return self._engine.get_num_unfinished_requests() if self._engine is not None else 0

    async def embed(self, request: EmbeddingRequest, context: RequestContext) -> EmbeddingResult:
        """See the port."""
        self._require_role(Role.EMBED)
        with self._translated("input"):
            engine = self._running()
            rendered = await self._render(engine, request.inputs, detokenize=False)
            dimensions = self._changed_dimensions(request.dimensions)
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [
                        group.create_task(self._encode(engine, item, dimensions, context)) for item in rendered
                    ]
            except* Exception as errors:
                # The first failure has cancelled its siblings; it speaks for the request.
                raise errors.exceptions[0] from None
        rows = [task.result() for task in tasks]
        return EmbeddingResult(
            vectors=b"".join(vector for vector, _ in rows),
            dimensions=len(rows[0][0]) // 4,
            prompt_tokens=sum(tokens for _, tokens in rows),
        )

    async def generate(
        self, request: GenerationRequest, context: RequestContext
    ) -> AsyncGenerator[GenerationEvent, None]:
        """See the port."""
        self._require_role(Role.GENERATE)
        with self._translated("prompt"):
            engine = self._running()
            (rendered,) = await self._render(engine, [request.prompt], detokenize=request.echo)
            prompt_tokens = len(rendered["prompt_token_ids"])
            room = self._max_model_len - prompt_tokens
            if room < 1:
                raise ContextLengthError(self._max_model_len, param="prompt")
            params = sampling_params(request, model_defaults=self._sampling_defaults, room=room)
            choices = _Choices(request, prompt_text=rendered.get("prompt") or "", tokenizer=engine.get_tokenizer())
            outputs = engine.generate(rendered, params, self._request_id(context))
            async with contextlib.aclosing(outputs):
                async for output in outputs:
                    for delta in choices.deltas(output):
                        yield delta
            yield GenerationUsage(prompt_tokens=prompt_tokens, completion_tokens=choices.completion_tokens)

    def _running(self) -> AsyncLLM:
        if self._engine is None:
            raise BackendUnavailableError(f"The engine of '{self._name}' is not running.")
        return self._engine

    def _require_role(self, role: Role) -> None:
        if role is not self._role:
            raise WrongEndpointError(f"The model '{self._name}' can't {role}.", param="model")

    def _request_id(self, context: RequestContext) -> str:
        return f"{context.request_id}-{next(self._sequence)}"

    async def _render(self, engine: AsyncLLM, prompts: list[Prompt], *, detokenize: bool) -> list[Any]:
        """Tokenize; raises vLLM's own error for what is too long or not in the vocabulary."""
        renderer = engine.renderer
        params = replace(renderer.default_cmpl_tok_params, needs_detokenization=detokenize)
        parsed = [
            parse_model_prompt(
                self._config.model_config,
                prompt if isinstance(prompt, str) else {"prompt_token_ids": prompt},
            )
            for prompt in prompts
        ]
        rendered: list[Any] = await renderer.render_cmpl_async(parsed, params)
        return rendered

    def _changed_dimensions(self, wanted: int | None) -> int | None:
        """The dimensions to ask vLLM for: None where the model's own are wanted.

        vLLM refuses the parameter for every model that was not trained for several sizes, the native size
        included, which is harmless.
        """
        native = self._config.model_config.embedding_size
        return None if wanted == native else wanted

    async def _encode(
        self, engine: AsyncLLM, rendered: Any, dimensions: int | None, context: RequestContext
    ) -> tuple[bytes, int]:
        """One input's vector as float32 bytes, and its number of tokens."""
        params = PoolingParams(task="embed", dimensions=dimensions)
        # A pooling request has one output; running the generator out lets vLLM clean up after it.
        (output,) = [item async for item in engine.encode(rendered, params, self._request_id(context))]
        vector = output.outputs.data.to(torch.float32).contiguous().numpy().tobytes()
        return vector, len(output.prompt_token_ids)

    @contextlib.contextmanager
    def _translated(self, param: str) -> Iterator[None]:
        """Let only the domain's errors out."""
        try:
            yield
        except InferenceError:
            raise
        except EngineDeadError as error:
            raise BackendFailedError(f"The engine of '{self._name}' has ended unexpectedly.") from error
        except GracefulHTTPError as error:
            raise BackendUnavailableError(
                f"The engine of '{self._name}' is overloaded. Please try again.", retry_after_s=1
            ) from error
        except (VLLMClientError, ValueError) as error:
            message = str(error.args[0]) if error.args else str(error)
            raise refusal(message, param=param, model=self._name, max_model_len=self._max_model_len) from error
        except EngineGenerateError as error:
            raise BackendFailedError(
                f"The engine of '{self._name}' failed on this request. Please try again."
            ) from error


class _Choices:
    """Turns the outputs of one vLLM request into deltas, and counts."""

    def __init__(self, request: GenerationRequest, *, prompt_text: str, tokenizer: Any) -> None:
        self._logprobs = request.sampling.logprobs
        self._prompt_only = request.sampling.max_tokens == 0
        self._prompt_text = prompt_text
        self._tokenizer = tokenizer
        self._to_echo = set(range(request.sampling.n)) if request.echo else set()
        self.completion_tokens = 0

    def deltas(self, output: RequestOutput) -> Iterator[GenerationDelta]:
        """One delta for each choice that moved."""
        for choice in output.outputs:
            text = "" if self._prompt_only else choice.text
            logprobs = None
            if self._logprobs is not None:
                logprobs = [] if self._prompt_only else output_logprobs(choice, self._logprobs, self._tokenizer)
            if choice.index in self._to_echo:
                self._to_echo.remove(choice.index)
                text = self._prompt_text + text
                if logprobs is not None and self._logprobs is not None:
                    logprobs = prompt_logprobs(output, self._logprobs, self._tokenizer) + logprobs
            reason = finish_reason(choice)
            if not self._prompt_only:
                self.completion_tokens += len(choice.token_ids)
            if text or logprobs or reason is not None:
                yield GenerationDelta(index=choice.index, text=text, logprobs=logprobs, finish_reason=reason)
