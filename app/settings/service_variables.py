"""The variables of the service itself: where it listens, who may use it, what it gives a client."""

from app.settings import parsers
from app.settings.settings import HTTP, INPROCESS
from app.settings.variable import Variable

SERVICE = (
    Variable(
        name="HOST",
        default="127.0.0.1",
        parse=parsers.parse_host,
        about="Address to listen on. 0.0.0.0 opens the service to the network: set API_KEYS then.",
    ),
    Variable(
        name="PORT",
        default="8200",
        parse=parsers.parse_port,
        about="TCP port to listen on; 0 takes any free one.",
    ),
    Variable(
        name="API_PROCESSES",
        default="1",
        parse=parsers.parse_positive_int,
        about=f"Processes that serve the port: more than 1 only for a gateway (both engines over {HTTP}).",
    ),
    Variable(
        name="MEMORIA_CACHE_DIR",
        default="",
        parse=parsers.parse_folder,
        about="Folder for prepared models. Unset: memoria-vllm in the user's cache folder.",
    ),
    Variable(
        name="ALLOW_UNKNOWN_FIELDS",
        default="false",
        parse=parsers.parse_yes_or_no,
        about="Whether request fields that the API does not know are passed over (true) or refused (false).",
    ),
    Variable(
        name="SSE_KEEP_ALIVE_S",
        default="15",
        parse=parsers.parse_seconds,
        about="Silence in seconds after which a stream gets a comment, so that proxies keep it open; 0 for never.",
    ),
)
TIME_LIMITS = (
    Variable(
        name="REQUEST_TIMEOUT_S",
        default="600",
        parse=parsers.parse_seconds,
        about="Longest time of a request in seconds, waiting included; clients may ask for less. 0 for no limit.",
    ),
    Variable(
        name="DRAIN_TIMEOUT_S",
        default="30",
        parse=parsers.parse_seconds,
        about="Seconds that requests under way have to end after SIGTERM; a second signal ends them at once.",
    ),
    Variable(
        name="HANG_TIMEOUT_S",
        default="30",
        parse=parsers.parse_positive_seconds,
        about=f"Seconds without a sign of life after which an engine with work is restarted; {INPROCESS} only.",
    ),
)
ACCESS = (
    Variable(
        name="API_KEYS",
        default="",
        parse=parsers.parse_keys,
        is_secret=True,
        about="Keys that clients must have one of, separated by commas. Unset, as API_KEYS_FILE: open to all.",
    ),
    Variable(
        name="API_KEYS_FILE",
        default="",
        parse=parsers.parse_file,
        about="File with one key a line, and optionally its name and limits: alice KEY rpm=60 tpm=100000.",
    ),
    Variable(
        name="KEY_REQUESTS_PER_MINUTE",
        default="0",
        parse=parsers.parse_limit,
        about="Requests a minute for each key that has no limit of its own; 0 for no limit.",
    ),
    Variable(
        name="KEY_TOKENS_PER_MINUTE",
        default="0",
        parse=parsers.parse_limit,
        about="Tokens a minute, prompts and answers, for each key that has no limit of its own; 0 for no limit.",
    ),
    Variable(
        name="CORS_ORIGINS",
        default="",
        parse=parsers.parse_origins,
        about="Web sites whose pages may use the service, such as https://app.example.com, or * for all.",
    ),
    Variable(
        name="TLS_CERT_FILE",
        default="",
        parse=parsers.parse_file,
        about="Certificate chain in PEM, to serve https; needs TLS_KEY_FILE.",
    ),
    Variable(
        name="TLS_KEY_FILE",
        default="",
        parse=parsers.parse_file,
        about="Private key of TLS_CERT_FILE in PEM, without a password.",
    ),
)
CLIENT_LIMITS = (
    Variable(
        name="MAX_BODY_BYTES",
        default="33554432",
        parse=parsers.parse_positive_int,
        about="Largest request body in bytes; a larger one gets status 413.",
    ),
    Variable(
        name="MAX_CONNECTIONS",
        default="1000",
        parse=parsers.parse_positive_int,
        about="Connections that each process takes at a time; further clients get status 503.",
    ),
    Variable(
        name="CLIENT_TIMEOUT_S",
        default="30",
        parse=parsers.parse_seconds,
        about="Seconds for a client to send its request, and to take what waits to be read; 0 for no limit.",
    ),
)
