"""Parts of the in-process adapter, tested with vLLM's own types and without an engine."""

import contextlib
import json
from types import SimpleNamespace
from typing import Any

import pytest

from adapters.vllm.dialect.pattern import length_pattern
from adapters.vllm.dialect.prepare import prepare
from adapters.vllm.inprocess.watchdog import Watchdog
from domain.conversation import Conversation, Function, ToolChoice, UserMessage
from domain.errors import EngineHungError, InvalidRequestError
from domain.port import RequestContext
from domain.requests import GenerationRequest
from domain.roles import Role
from domain.sampling import SamplingParameters, StructuredOutputs
from tests.calls import events_of

pytestmark = pytest.mark.integration


class Letters:
    """A tokenizer whose tokens are characters."""

    def decode(self, token_id: int) -> str:
        return chr(token_id)


def output(*choices: tuple[int, str], prompt: str, with_prompt_logprobs: bool) -> Any:
    """An output of vLLM for a prompt, with deltas of choices as (index, text)."""
    from vllm.logprobs import Logprob
    from vllm.outputs import CompletionOutput, RequestOutput

    def logprobs(text: str) -> list[dict[int, Any]]:
        return [{ord(letter): Logprob(-0.5, 1, letter)} for letter in text]

    return RequestOutput(
        "id",
        prompt,
        [ord(letter) for letter in prompt],
        [None, *logprobs(prompt[1:])] if with_prompt_logprobs else [],
        [
            CompletionOutput(index, text, [ord(letter) for letter in text], None, logprobs(text))
            for index, text in choices
        ],
        finished=False,
    )


def test_each_choice_gets_the_logprobs_of_the_prompt(inprocess_setups: dict[Role, object]) -> None:
    from adapters.vllm.inprocess.choices import Choices

    sampling = SamplingParameters(n=2, logprobs=0)
    request = GenerationRequest(prompt="ab", sampling=sampling, echo=True)
    choices = Choices(request, prompt_text="ab", tokenizer=Letters())
    deltas = [
        *choices.deltas(output((0, "x"), prompt="ab", with_prompt_logprobs=True)),
        *choices.deltas(output((0, "y"), (1, "z"), prompt="ab", with_prompt_logprobs=False)),
    ]
    assert [(delta.index, delta.text) for delta in deltas] == [(0, "abx"), (0, "y"), (1, "abz")]
    assert ["".join(token.token for token in delta.logprobs or []) for delta in deltas] == ["abx", "y", "abz"]


@pytest.fixture
def running(inprocess_setups: dict[Role, object]) -> Any:
    """A running generation engine without a real engine."""
    from adapters.vllm.inprocess.running_engine import RunningEngine

    engine = RunningEngine.__new__(RunningEngine)
    engine.name, engine.max_model_len = "tiny-gen", 256
    return engine


def fail(progress: Any, *, has_output: bool) -> None:
    progress.has_output = has_output
    raise ValueError("That can't be.")


def test_an_engine_error_before_the_first_output_is_a_rejection(running: Any) -> None:
    with pytest.raises(InvalidRequestError), running.translate_errors("prompt") as progress:
        fail(progress, has_output=False)


def test_an_engine_error_after_the_first_output_is_not_a_rejection(running: Any) -> None:
    with pytest.raises(ValueError), running.translate_errors("prompt") as progress:
        fail(progress, has_output=True)


def test_an_error_of_the_adapter_is_not_a_rejection(running: Any) -> None:
    from adapters.vllm.inprocess.translate import prompt_logprobs

    with pytest.raises(ValueError, match="zip"), running.translate_errors("prompt"):
        prompt_logprobs(output((0, "x"), prompt="ab", with_prompt_logprobs=False), 0, Letters())


@pytest.fixture(scope="module")
def chat(inprocess_setups: dict[Role, Any]) -> Any:
    """The tiny model's chat template and parsers."""
    from vllm.renderers import renderer_from_config

    from adapters.vllm.inprocess.chat import Chat

    setup = inprocess_setups[Role.GENERATE]
    return Chat(setup.config.model_config, renderer_from_config(setup.config), setup.chat)


@pytest.mark.parametrize(("thinks", "text"), [(True, "h€y </think>d€ne"), (True, "h€y"), (False, "h€y")])
async def test_reasoning_tokens_are_equal_streamed_and_complete(chat: Any, thinks: bool, text: str) -> None:
    from vllm.outputs import CompletionOutput

    async def rendered(*, stream: bool) -> Any:
        conversation = Conversation(
            messages=[UserMessage(content="Hello")], template_arguments={"enable_thinking": thinks}
        )
        request = GenerationRequest(prompt=conversation, sampling=SamplingParameters())
        return await chat.render(request, conversation, streams=stream)

    tokenizer = chat._renderer.get_tokenizer()
    ids = tokenizer.encode(text)
    whole, parts = await rendered(stream=False), await rendered(stream=True)
    whole.part(CompletionOutput(0, text, ids, None, None, "stop"))
    text_so_far = ""
    for position in range(len(ids)):
        # An incomplete character is held back until it is complete.
        decoded = tokenizer.decode(ids[: position + 1]).rstrip("\ufffd")
        ending = "stop" if position == len(ids) - 1 else None
        output = CompletionOutput(0, decoded[len(text_so_far) :], [ids[position]], None, None, ending)
        parts.part(output)
        text_so_far = decoded
    assert text_so_far == text
    thought = len(tokenizer.encode(text.partition("</think>")[0])) if thinks else 0
    assert (whole.reasoning_tokens(), parts.reasoning_tokens()) == (thought, thought)


@pytest.mark.parametrize("failure", [RuntimeError("broken"), ValueError("too long")])
async def test_a_failed_embedding_aborts_its_other_inputs(
    inprocess_setups: dict[Role, object], failure: Exception
) -> None:
    from vllm.v1.engine.exceptions import EngineGenerateError

    from adapters.vllm.inprocess.pooling import run_all

    class Output:
        def __init__(self, request_id: str) -> None:
            self.request_id = request_id

        async def get(self) -> Any:
            raise failure

    class Engine:
        def __init__(self) -> None:
            self.aborted: list[str] = []

        async def add_request(self, request_id: str, _item: Any, _params: Any, **_trace: Any) -> Output:
            return Output(request_id)

        async def abort(self, request_ids: list[str], *, internal: bool) -> None:
            self.aborted += request_ids

    engine = Engine()
    running = SimpleNamespace(
        engine=engine,
        trace_headers=lambda _context: None,
        request_id=lambda context: context.request_id,
        record_progress=lambda: None,
    )
    # A rejection stays one; an unexpected error becomes an engine failure, as the port requires.
    expected = ValueError if isinstance(failure, ValueError) else EngineGenerateError
    with pytest.raises(expected):
        await run_all(running, [("a", None), ("b", None)], RequestContext(request_id="x"))
    assert len(engine.aborted) == 2


UNSUPPORTED: dict[str, GenerationRequest] = {
    "guided_json": GenerationRequest(
        prompt="x",
        sampling=SamplingParameters(
            structured_outputs=StructuredOutputs(json={"not": {}}), structured_outputs_param="guided_json"
        ),
    ),
    "tools[7]": GenerationRequest(
        prompt=Conversation(
            messages=[UserMessage(content="Hello")],
            tools=[Function(name="f", parameters={"type": "object", "not": {}}, strict=True)],
            tool_params=["tools[7]"],
            tool_choice=ToolChoice.AUTO,
        ),
        sampling=SamplingParameters(),
    ),
}


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("param", UNSUPPORTED)
async def test_an_unsupported_schema_never_reaches_the_engine(
    inprocess_setups: dict[Role, Any], param: str, streams: bool
) -> None:
    from adapters.vllm.inprocess.backend import VLLMInProcessBackend

    backend: Any = VLLMInProcessBackend(role=Role.GENERATE, name="tiny-gen", setup=inprocess_setups[Role.GENERATE])

    class Untouchable:
        def __getattr__(self, name: str) -> Any:
            pytest.fail(f"'{name}' of the engine is used")

    backend._engine = backend._chat = Untouchable()
    with pytest.raises(InvalidRequestError) as caught:
        await events_of(backend, UNSUPPORTED[param], RequestContext(request_id="x"), streams=streams)
    assert caught.value.param == param


async def test_the_template_has_original_schemas_and_the_grammar_normalized_ones(
    chat: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import adapters.vllm.inprocess.chat as module

    parameters = {"type": "object", "properties": {"a": {"type": "string", "maxLength": 3}}}
    own = Conversation(
        messages=[UserMessage(content="Hello")],
        tools=[Function(name="f", parameters=parameters, strict=True)],
        tool_choice=ToolChoice.REQUIRED,
    )
    monkeypatch.setattr(module, "normalize_if_possible", lambda _: pytest.fail("normalized again"))
    prepared = prepare(GenerationRequest(prompt=own, sampling=SamplingParameters()))
    rendered = await chat.render(prepared, own, streams=False)
    shown = chat._renderer.get_tokenizer().decode(rendered.prompt_token_ids)
    assert "maxLength" in shown
    assert "pattern" not in shown
    tag = json.loads(rendered._request.structured_outputs.structural_tag)
    (first, *_) = module._json_schemas(tag)
    assert first["json_schema"]["properties"]["a"] == {"type": "string", "pattern": length_pattern(0, 3)}
    assert first["max_whitespace_cnt"] == 1


async def test_tokens_of_answers_that_have_no_output_yet_are_progress(inprocess_setups: dict[Role, Any]) -> None:
    from adapters.vllm.inprocess.backend import VLLMInProcessBackend

    class Engine:
        """Whole answers are generated; none of them is complete."""

        tokens = 0

        @property
        def engine(self) -> "Engine":
            return self

        def generated_tokens(self) -> int:
            return self.tokens

        def translate_errors(self, _param: str) -> Any:
            return contextlib.nullcontext()

        async def check_health(self) -> None:
            pass

        def get_num_unfinished_requests(self) -> int:
            return 1

    now = [0.0]
    backend = VLLMInProcessBackend(role=Role.GENERATE, name="m", setup=inprocess_setups[Role.GENERATE])
    engine = Engine()
    attached = {"_engine": engine, "_watchdog": Watchdog(list, hang_s=1, now=lambda: now[0]), "_thread": object()}
    for name, value in attached.items():
        setattr(backend, name, value)
    for _ in range(100):
        now[0] += 5
        engine.tokens += 1
        await backend.probe()
    now[0] += 5
    backend._thread = SimpleNamespace(kill=lambda: None)
    with pytest.raises(EngineHungError):
        await backend.probe()
