"""An AsyncLLM that serves, and what every request to it needs: tokens, ids, and the domain's errors."""

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

from adapters.vllm.dialect.refusals import form_param, refusal
from adapters.vllm.inprocess.quick_tokenizer import quick_tokenizer
from domain.errors import BackendFailedError, BackendUnavailableError, EngineDiedError, InferenceError
from domain.port import RequestContext
from domain.requests import GenerationRequest, Prompt

RETRY_AFTER_S = 10
UNSAMPLED = {"traceparent": "00-00000000000000000000000000000001-0000000000000001-00"}
"""A parent that is not recorded (W3C Trace Context, trace-flags), so its children are not either."""
INLINE_CHARACTERS = 8192
"""Prompts up to this length together are tokenized on the event loop, in some 2 ms at the most; handing them to a
thread and back costs more than that takes for a usual one, and longer ones would hold up all other requests."""
REFUSALS = (VLLMClientError, GracefulHTTPError, ValueError)
"""What vLLM raises for a request that it refuses; anything else is a failure of the engine."""

# vLLM wants ids that are unique among running requests; a client's own id need not be.
_sequence = itertools.count()


class Progress:
    """How far a request has come."""

    has_output = False
    """Whether the engine has begun to answer: from then on nothing that it raises is a refusal."""


class RunningEngine:
    """One engine between its start and its end."""

    def __init__(
        self,
        engine: AsyncLLM,
        config: VllmConfig,
        *,
        name: str,
        answer_room: int,
        on_progress: Callable[[], None],
    ) -> None:
        """Take over an engine that has started.

        Args:
            engine: vLLM's.
            config: that it was started with.
            name: the model's name for clients.
            answer_room: tokens of the context that are kept free when a prompt is cut: 1 for a generator.
            on_progress: called when the engine has shown that it works.
        """
        self.engine = engine
        self.name = name
        self.model_config = config.model_config
        self.max_model_len = int(config.model_config.max_model_len)
        self.progressed = on_progress
        self.tokenizer: Any = engine.get_tokenizer()
        self.sampling_defaults: dict[str, Any] = config.model_config.get_diff_sampling_param()
        self._traces = config.observability_config.otlp_traces_endpoint is not None
        self._answer_room = answer_room
        self._quick_tokenizer = quick_tokenizer(engine.renderer, config.model_config)

    def request_id(self, context: RequestContext) -> str:
        """A fresh id for vLLM, which begins with the request's own."""
        return f"{context.request_id}-{next(_sequence)}"

    def trace_headers(self, context: RequestContext) -> Mapping[str, str] | None:
        """The parent of vLLM's span. A request without a trace, such as a canary, gets no span of its own."""
        return (context.trace or UNSAMPLED) if self._traces else None

    async def render(
        self,
        prompts: list[Prompt],
        *,
        truncate: int | None,
        add_special_tokens: bool,
        detokenize: bool = False,
    ) -> list[Any]:
        """vLLM's inputs for prompts, tokenized and cut.

        Raises vLLM's own error for what is too long or not in the vocabulary.
        """
        renderer = self.engine.renderer
        params = replace(
            renderer.default_cmpl_tok_params,
            max_output_tokens=self._answer_room,
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
        """The tokens of a text, however many they are."""
        unlimited = TokenizeParams(
            max_total_tokens=None, max_output_tokens=0, add_special_tokens=add_special_tokens
        )
        parsed = parse_model_prompt(self.model_config, text)
        (rendered,) = await self.engine.renderer.render_cmpl_async([parsed], unlimited)
        return list(rendered["prompt_token_ids"])

    def detokenize(self, token_ids: list[int]) -> str:
        """The text of tokens; raises vLLM's own error for one that is not in the vocabulary."""
        self.engine.renderer.validate_token_ids(token_ids, parameter="tokens")
        return str(self.tokenizer.decode(token_ids))

    @contextlib.contextmanager
    def translate_errors(self, param: str, request: GenerationRequest | None = None) -> Iterator[Progress]:
        """Turn vLLM's errors into the domain's; defects of our own pass through.

        Args:
            param: the request parameter that carries the prompt or the inputs.
            request: the generation that is asked for, if it is one.
        """
        progress = Progress()
        try:
            yield progress
        except InferenceError:
            raise
        except EngineDeadError as error:
            raise EngineDiedError(
                f"The engine of '{self.name}' has ended unexpectedly and is started again. Try again soon.",
                retry_after_s=RETRY_AFTER_S,
            ) from error
        except GracefulHTTPError as error:
            raise BackendUnavailableError(
                f"The engine of '{self.name}' is overloaded. Please try again.", retry_after_s=1
            ) from error
        except (VLLMClientError, ValueError) as error:
            if not isinstance(error, VLLMClientError) and (progress.has_output or _is_ours(error)):
                # Not a refusal but a defect, whose words mean nothing to a client.
                raise
            message = str(error.args[0]) if error.args else str(error)
            raise refusal(
                message,
                param=param,
                form_param=form_param(request),
                model=self.name,
                max_model_len=self.max_model_len,
            ) from error
        except EngineGenerateError as error:
            raise BackendFailedError(
                f"The engine of '{self.name}' failed on this request. Please try again."
            ) from error


def _is_ours(error: Exception) -> bool:
    """Whether an error was raised by this service's own code, and not by vLLM or something below it."""
    *_, (frame, _line) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).startswith(("adapters.", "domain."))
