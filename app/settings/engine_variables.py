"""The variables of the engines: which models, where they run, how much they get and are given."""

from collections.abc import Callable
from typing import NamedTuple

from app.settings import parsers
from app.settings.settings import HTTP, INPROCESS, PREFIX
from app.settings.variable import Variable
from domain.roles import Role


class _Engine(NamedTuple):
    """What tells the variables of one engine from those of the other."""

    prefix: str
    name: str
    port: int
    running: int


ENGINES = (
    _Engine(PREFIX[Role.EMBED], name="embedding", port=8100, running=512),
    _Engine(PREFIX[Role.GENERATE], name="generation", port=8101, running=256),
)


def _of_both(variables: Callable[[_Engine], tuple[Variable, ...]]) -> tuple[Variable, ...]:
    return tuple(variable for engine in ENGINES for variable in variables(engine))


def _models(engine: _Engine) -> tuple[Variable, ...]:
    return (
        Variable(
            name=f"MODEL_{engine.prefix}_NAME",
            default="",
            parse=parsers.parse_text,
            about=f"{engine.name.capitalize()} model: a hub name, a local folder, or a packaged model's name."
            " Unset: by the machine.",
        ),
        Variable(
            name=f"MODEL_{engine.prefix}_ALIASES",
            default="",
            parse=parsers.parse_names,
            about=f"More names under which clients may ask for the {engine.name} model, separated by commas.",
        ),
    )


def _backends(engine: _Engine) -> tuple[Variable, ...]:
    return (
        Variable(
            name=f"{engine.prefix}_BACKEND",
            default=INPROCESS,
            parse=parsers.parse_backend,
            about=f"Where the {engine.name} engine runs: {INPROCESS}, {HTTP}, or a dotted path to a factory.",
        ),
        Variable(
            name=f"VLLM_{engine.prefix}_URL",
            default=f"http://127.0.0.1:{engine.port}",
            parse=parsers.parse_urls,
            about=f"Address of the {engine.name} vLLM server, or several with commas,"
            f" for {engine.prefix}_BACKEND={HTTP}.",
        ),
        Variable(
            name=f"VLLM_{engine.prefix}_API_KEY",
            default="",
            parse=parsers.parse_text,
            is_secret=True,
            about=f"Key that the {engine.name} vLLM server asks for, for {engine.prefix}_BACKEND={HTTP}.",
        ),
        Variable(
            name=f"VLLM_{engine.prefix}_ARGS",
            default="",
            parse=str,
            about=f"More flags for the {engine.name} engine, spelled as for vllm serve; {INPROCESS} and compose.",
        ),
    )


def _memory(engine: _Engine) -> tuple[Variable, ...]:
    return (
        Variable(
            name=f"VLLM_{engine.prefix}_GPU_MEMORY",
            default="",
            parse=parsers.parse_gpu_memory,
            about=f"GPU memory of the {engine.name} engine: a share (0.25) or a size (6GiB); {INPROCESS} only.",
        ),
        Variable(
            name=f"VLLM_{engine.prefix}_MAX_MODEL_LEN",
            default="",
            parse=parsers.parse_optional_tokens,
            about=f"Context of the {engine.name} engine in tokens. Unset: by the memory plan; {INPROCESS} only.",
        ),
    )


def _bounds(engine: _Engine) -> tuple[Variable, ...]:
    return (
        Variable(
            name=f"{engine.prefix}_MAX_RUNNING",
            default=str(engine.running),
            parse=parsers.parse_positive_int,
            about=f"Requests that the {engine.name} engine is given at a time; more wait.",
        ),
        Variable(
            name=f"{engine.prefix}_MAX_WAITING",
            default="1024",
            parse=parsers.parse_whole,
            about=f"Requests that may wait for the {engine.name} engine; one more gets status 429.",
        ),
        Variable(
            name=f"{engine.prefix}_MAX_RUNNING_TOKENS",
            default="1000000",
            parse=parsers.parse_positive_int,
            about=f"Tokens, estimated, that the {engine.name} engine is given at a time, answers included.",
        ),
        Variable(
            name=f"{engine.prefix}_MAX_WAITING_TOKENS",
            default="4000000",
            parse=parsers.parse_positive_int,
            about=f"Tokens, estimated, that may wait for the {engine.name} engine.",
        ),
    )


MODELS = _of_both(_models)
BACKENDS = _of_both(_backends)
MEMORY = _of_both(_memory)
BACK_PRESSURE = _of_both(_bounds)
EMBEDDINGS = (
    Variable(
        name="VLLM_EMBED_TOKENIZER",
        default="",
        parse=parsers.parse_text,
        about=f"Folder or tokenizer.json of the embedding model, to join requests over {HTTP}. Unset: looked for.",
    ),
    Variable(
        name="EMBED_JOIN",
        default="auto",
        parse=parsers.parse_auto_or_yes_or_no,
        about=f"Whether waiting embedding requests travel together: true, false, or auto, which is over {HTTP}.",
    ),
    Variable(
        name="EMBED_CACHE",
        default="0",
        parse=parsers.parse_bytes,
        about="Memory for vectors that were asked for before, in bytes or as 256MiB; 0 for no cache.",
    ),
)
SERVERS = (
    Variable(
        name="HTTP_CONNECT_TIMEOUT_S",
        default="5",
        parse=parsers.parse_time_limit,
        about=f"Seconds that a connection to a server may take, over {HTTP}.",
    ),
    Variable(
        name="HTTP_READ_TIMEOUT_S",
        default="600",
        parse=parsers.parse_time_limit,
        about=f"Longest silence in seconds of a server at work, over {HTTP}; then its request gets status 504.",
    ),
    Variable(
        name="HTTP_RETRIES",
        default="2",
        parse=parsers.parse_whole,
        about=f"Retries of a request that no server has begun to answer, over {HTTP}; 0 for none.",
    ),
    Variable(
        name="HTTP_RETRY_SHARE",
        default="0.2",
        parse=parsers.parse_share,
        about=f"Retries of all requests together, as a share of the requests, over {HTTP}.",
    ),
    Variable(
        name="HTTP_BREAKER_FAILURES",
        default="5",
        parse=parsers.parse_positive_int,
        about=f"Failures of a server to answer, one after the other, after which it is left alone, over {HTTP}.",
    ),
    Variable(
        name="HTTP_BREAKER_COOL_DOWN_S",
        default="5",
        parse=parsers.parse_time_limit,
        about=f"Seconds for which it is left alone at first, over {HTTP}.",
    ),
)
