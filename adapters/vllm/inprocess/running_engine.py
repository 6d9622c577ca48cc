"""Wraps a started AsyncLLM with what all requests need: tokenization, request ids and error translation."""

import contextlib
import itertools
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from vllm.config import VllmConfig
from vllm.exceptions import GracefulHTTPError, VLLMClientError
from vllm.renderers import TokenizeParams
from vllm.renderers.inputs.preprocess import parse_model_prompt
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from adapters.vllm.dialect.refusals import constrained_param, refusal
from adapters.vllm.inprocess.quick_tokenizer import quick_tokenizer
from domain.errors import BackendFailedError, BackendUnavailableError, EngineDiedError, InferenceError
from domain.port import RequestContext
from domain.requests import GenerationRequest, Prompt

RETRY_AFTER_S = 10
UNSAMPLED = {"traceparent": "00-00000000000000000000000000000001-0000000000000001-00"}
"""A parent that is not sampled (W3C Trace Context, trace-flags), so that its children are not either."""
INLINE_CHARACTERS = 8192
"""Prompts of up to this total length are tokenized on the event loop, which takes about 2 ms at most. For a
typical prompt a thread would cost more; longer prompts would block all other requests."""
REJECTIONS = (VLLMClientError, GracefulHTTPError, ValueError)
"""Exceptions that vLLM raises for invalid requests; any other is a failure of the engine."""

# vLLM requires ids that are unique among running requests; ids from clients may repeat.
_sequence = itertools.count()


class RequestProgress:
    """The progress of one request."""

    has_output = False
    """Whether the engine has produced output; errors after that are not the client's fault."""


class RunningEngine:
    """A started engine."""

    def __init__(
        self,
        engine: AsyncLLM,
        config: VllmConfig,
        *,
        name: str,
        output_reserve: int,
        on_progress: Callable[[], None],
    ) -> None:
        """Wrap an engine.

        Args:
            engine: the started engine.
            config: the configuration that it was started with.
            name: the model's name for clients.
            output_reserve: tokens of the context to reserve for output when truncating a prompt: 1 for generation.
            on_progress: called when the engine has produced output.
        """
        self.engine = engine
        self.name = name
        self.model_config = config.model_config
        self.max_model_len = int(config.model_config.max_model_len)
        self.record_progress = on_progress
        self.tokenizer: Any = engine.get_tokenizer()
        self.sampling_defaults: dict[str, Any] = config.model_config.get_diff_sampling_param()
        self._traces = config.observability_config.otlp_traces_endpoint is not None
        self._output_reserve = output_reserve
        self._quick_tokenizer = quick_tokenizer(engine.renderer, config.model_config)

    def request_id(self, context: RequestContext) -> str:
        """A unique id for vLLM, which starts with the request's id."""
        return f"{context.request_id}-{next(_sequence)}"

    def generated_tokens(self) -> int:
        """Tokens of all unfinished generations so far: a change shows progress before any output is due."""
        states = self.engine.output_processor.request_states.values()
        return sum(state.detokenizer.num_output_tokens() for state in states if state.detokenizer is not None)

    def trace_headers(self, context: RequestContext) -> Mapping[str, str] | None:
        """Trace context for vLLM's span. A request without a trace, such as a canary, gets no span."""
        return (context.trace or UNSAMPLED) if self._traces else None

    async def render(
        self,
        prompts: list[Prompt],
        *,
        truncate: int | None,
        add_special_tokens: bool,
        detokenize: bool = False,
    ) -> list[Any]:
        """Tokenize and truncate prompts; returns vLLM's engine inputs.

        Raises vLLM's error for prompts that are too long and for token ids outside the vocabulary.
        """
        renderer = self.engine.renderer
        params = replace(
            renderer.default_cmpl_tok_params,
            max_output_tokens=self._output_reserve,
            needs_detokenization=detokenize,
            truncate_prompt_tokens=truncate,
            add_special_tokens=add_special_tokens,
        )
        is_short = not detokenize and sum(map(len, prompts)) <= INLINE_CHARACTERS
        if is_short and self._quick_tokenizer is not None and truncate is None:
            prompts = self._quick_tokenizer.encode(prompts, add_special_tokens=add_special_tokens)
        parsed = [
            parse_model_prompt(
                self.model_config, prompt if isinstance(prompt, str) else {"prompt_token_ids": prompt}
            )
            for prompt in prompts
        ]
        rendered: list[Any] = (
            renderer.render_cmpl(parsed, params) if is_short else await renderer.render_cmpl_async(parsed, params)
        )
        return rendered

    async def tokenize(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Tokenize a text, without a length limit."""
        unlimited = TokenizeParams(
            max_total_tokens=None, max_output_tokens=0, add_special_tokens=add_special_tokens
        )
        parsed = parse_model_prompt(self.model_config, text)
        (rendered,) = await self.engine.renderer.render_cmpl_async([parsed], unlimited)
        return list(rendered["prompt_token_ids"])

    def detokenize(self, token_ids: list[int]) -> str:
        """Decode tokens into text; raises vLLM's error for ids outside the vocabulary."""
        self.engine.renderer.validate_token_ids(token_ids, parameter="tokens")
        return str(self.tokenizer.decode(token_ids))

    @contextlib.contextmanager
    def translate_errors(self, param: str, request: GenerationRequest | None = None) -> Iterator[RequestProgress]:
        """Translate vLLM's errors into domain errors; bugs of this service propagate.

        Args:
            param: the request parameter that carries the prompt or the inputs.
            request: the generation request, if it is one.
        """
        progress = RequestProgress()
        try:
            yield progress
        except InferenceError:
            raise
        except EngineDeadError as error:
            raise EngineDiedError(
                f"The engine of '{self.name}' has ended unexpectedly and is being restarted. Try again soon.",
                retry_after_s=RETRY_AFTER_S,
            ) from error
        except GracefulHTTPError as error:
            raise BackendUnavailableError(
                f"The engine of '{self.name}' is overloaded. Please try again.", retry_after_s=1
            ) from error
        except (VLLMClientError, ValueError) as error:
            if not isinstance(error, VLLMClientError) and (progress.has_output or _is_own_error(error)):
                # A bug and not an invalid request, so the message is not for clients.
                raise
            message = str(error.args[0]) if error.args else str(error)
            raise refusal(
                message,
                param=param,
                constrained_param=constrained_param(request),
                model=self.name,
                max_model_len=self.max_model_len,
            ) from error
        except EngineGenerateError as error:
            raise BackendFailedError(
                f"The engine of '{self.name}' failed on this request. Please try again."
            ) from error


def _is_own_error(error: Exception) -> bool:
    """Whether an error was raised by this service's code and not by vLLM or its dependencies."""
    *_, (frame, _line) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).startswith(("adapters.", "domain."))
