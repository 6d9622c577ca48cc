"""vLLM servers that run elsewhere: whether they answer, take the key, and have the model."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx
import msgspec

from app.commands.doctor.finding import Finding, failure, ok, warning
from domain.roles import ROLES, Role

MOST_AT_A_TIME = 16


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a server said when it was asked for its models."""

    address: str
    status: int | None
    """None if nothing came."""
    models: tuple[str, ...] = ()
    error: str = ""


class _Models(msgspec.Struct):
    class Model(msgspec.Struct):
        id: str

    data: list[Model]


def ask(urls: Sequence[str], *, api_key: str | None, timeout_s: float) -> list[Answer]:
    """Ask all servers of a role for their models, at the same time. Raises nothing."""
    with ThreadPoolExecutor(MOST_AT_A_TIME) as pool:
        return list(pool.map(lambda url: _ask(url, api_key, timeout_s), urls))


def _ask(url: str, api_key: str | None, timeout_s: float) -> Answer:
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    address = url.removesuffix("/v1")
    try:
        # As the service does: no proxy between it and its engines.
        with httpx.Client(trust_env=False, timeout=timeout_s) as client:
            response = client.get(f"{address}/v1/models", headers=headers)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Answer(address=address, status=None, error=str(error) or type(error).__name__)
    try:
        models = tuple(model.id for model in msgspec.json.decode(response.content, type=_Models).data)
    except msgspec.MsgspecError:
        models = ()
    return Answer(address=address, status=response.status_code, models=models)


def check_servers(role: Role, answers: Sequence[Answer], *, model: str | None) -> list[Finding]:
    """What the servers of a role answered. One that serves is enough for a start.

    Args:
        role: the role.
        answers: of all its servers.
        model: the name that the settings give it, if any.
    """
    judged = [_judge(answer, ROLES[role].prefix, model) for answer in answers]
    judge = warning if None in judged else failure
    found: list[Finding] = []
    for answer, complaint in zip(answers, judged, strict=True):
        if complaint is None:
            found.append(ok(f"{role} server", f"{answer.address} serves {', '.join(answer.models)}"))
        else:
            found.append(judge(f"{role} server", *complaint))
    return found


def _judge(answer: Answer, prefix: str, model: str | None) -> tuple[str, str] | None:
    if answer.status is None:
        return (
            f"{answer.address} does not answer ({answer.error})",
            f"Start it, or correct VLLM_{prefix}_URL; the service waits for it",
        )
    if answer.status in (401, 403):
        return (
            f"{answer.address} refuses the key (status {answer.status})",
            f"Set VLLM_{prefix}_API_KEY to its key",
        )
    if answer.status != httpx.codes.OK or not answer.models:
        return (
            f"{answer.address} does not answer as a vLLM server does (status {answer.status} for /v1/models)",
            f"Correct VLLM_{prefix}_URL",
        )
    if model is not None and model not in answer.models:
        return (
            f"{answer.address} serves {', '.join(answer.models)}, not {model}",
            f"Set MODEL_{prefix}_NAME to what it serves, or leave it out",
        )
    return None
