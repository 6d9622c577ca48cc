"""Scores pairs of texts on an AsyncLLM with a cross-encoder, a model that reads query and document together."""

import functools
from typing import Any

from vllm.config import VllmConfig
from vllm.entrypoints.pooling.scoring.io_processor import CrossEncoderIOProcessor
from vllm.entrypoints.pooling.scoring.utils import truncate_text_to_tokens
from vllm.entrypoints.pooling.typing import PoolingEngineInput, ScoringRenderParams
from vllm.outputs import ScoringOutput
from vllm.pooling_params import PoolingParams
from vllm.renderers.chat_utils import ChatTemplateConfig
from vllm.utils.async_utils import make_async

from adapters.vllm.inprocess.pooling import run_all
from adapters.vllm.inprocess.running_engine import RunningEngine
from domain.errors import InvalidRequestError
from domain.port import RequestContext
from domain.requests import ScoreRequest
from domain.results import ScoreResult

JOINT_TOKENS = 2
"""A document inside a template may have so many tokens more than alone."""


class Scoring:
    """Prepares pairs as vLLM's own server does, and runs them.

    Source: vllm.entrypoints.pooling.scoring (0.32.0).
    """

    def __init__(self, running: RunningEngine, config: VllmConfig, template: str | None) -> None:
        """Create it. Blocks while the model's class is loaded.

        Args:
            running: the engine.
            config: the configuration that it was started with.
            template: how query and document become one prompt (Jinja); None if the tokenizer joins them.
        """
        renderer = running.engine.renderer
        self._running = running
        self._processor = CrossEncoderIOProcessor(config, renderer, ChatTemplateConfig(chat_template=template))
        # vLLM's own threads: a tokenizer must not be used by two threads at a time.
        self._render_async = make_async(self._render, executor=renderer._executor)

    async def score(self, request: ScoreRequest, context: RequestContext) -> ScoreResult:
        """Score all pairs.

        Raises:
            InferenceError: the engine rejected the request or failed.
        """
        running = self._running
        with running.translate_errors("documents"):
            rendered: list[PoolingEngineInput] = await self._render_async(request.within(running.max_model_len))
            outputs = await run_all(running, [(item["prompts"], item["params"]) for item in rendered], context)
        return ScoreResult(
            scores=[ScoringOutput.from_base(output).score for output in outputs],
            prompt_tokens=sum(map(_length, rendered)),
        )

    def _render(self, request: ScoreRequest) -> list[PoolingEngineInput]:
        """Tokenize all pairs. Raises vLLM's error for a pair that is too long."""
        params = PoolingParams(task="classify", use_activation=request.use_activation)
        limits = self._running.engine.renderer.default_cmpl_tok_params.with_kwargs(
            truncate_prompt_tokens=request.truncate_prompt_tokens, max_output_tokens=0
        )
        queries = request.queries * len(request.documents) if len(request.queries) == 1 else request.queries
        extras: dict[str, Any] | None = None
        if request.instruction is not None:
            extras = {"chat_template_kwargs": {"instruction": request.instruction}}

        def render(query: str, document: str, max_tokens_per_doc: int | None) -> PoolingEngineInput:
            return self._processor.render(
                ScoringRenderParams(
                    data_1=self._cut(query, request.max_tokens_per_query),
                    data_2=self._cut(document, max_tokens_per_doc),
                    chat_template=self._processor.chat_template,
                    # Done already: with a limit on documents vLLM's tokenizer fails on a query that is too long.
                    max_tokens_per_query=0,
                    max_tokens_per_doc=0,
                    tok_params=limits,
                    prompt_extras=extras,
                    skip_mm_cache=False,
                    params=params,
                    lora_requests=None,
                    priorities=0,
                )
            )

        @functools.cache
        def document_limit(query: str) -> int | None:
            """Tokens of a document that leave the template whole; vLLM would cut off the template's end.

            Raises:
                InvalidRequestError: not even a document of one token fits.
            """
            whole, own = request.truncate_prompt_tokens, request.max_tokens_per_doc
            if whole is None or self._processor.chat_template is None:
                return own
            total = self._running.max_model_len if whole < 0 else whole
            room = total - _length(render(query, "", None)) - JOINT_TOKENS
            if room < 1:
                raise InvalidRequestError(
                    f"'truncate_prompt_tokens' allows {total} tokens, which leaves no room for a document next to "
                    "the query and the model's instructions. Raise it, shorten the query, or set "
                    "'max_tokens_per_query'.",
                    param="truncate_prompt_tokens",
                    code="invalid_value",
                )
            return min(room, own or room)

        return [
            render(query, document, document_limit(query))
            for query, document in zip(queries, request.documents, strict=True)
        ]

    def _cut(self, text: str, max_tokens: int | None) -> str:
        """The beginning of a text, of at most so many tokens; the whole text if there is no limit."""
        return text if max_tokens is None else truncate_text_to_tokens(text, self._processor.tokenizer, max_tokens)


def _length(rendered: PoolingEngineInput) -> int:
    return len(rendered["prompts"]["prompt_token_ids"])
