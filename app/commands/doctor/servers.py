"""Checks vLLM servers: whether they answer, accept the API key, and serve the model."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx
import msgspec

from app.commands.doctor.finding import Finding, failure, ok, warning
from app.commands.model_list import request_models
from domain.roles import ROLES, Role

MAX_CONCURRENCY = 16


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A server's answer to the request for its models."""

    address: str
    status: int | None
    """None without an answer."""
    models: tuple[str, ...] = ()
    error: str = ""


class _Models(msgspec.Struct):
    class Model(msgspec.Struct):
        id: str

    data: list[Model]


def ask(urls: Sequence[str], *, api_key: str | None, timeout_s: float) -> list[Answer]:
    """Request the models of all servers of a role concurrently. Never raises."""
    with ThreadPoolExecutor(MAX_CONCURRENCY) as pool:
        return list(pool.map(lambda url: _ask(url, api_key, timeout_s), urls))


def _ask(url: str, api_key: str | None, timeout_s: float) -> Answer:
    address = url.removesuffix("/v1")
    try:
        response = request_models(address, api_key=api_key, timeout_s=timeout_s)
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        return Answer(address=address, status=None, error=str(error) or type(error).__name__)
    try:
        models = tuple(model.id for model in msgspec.json.decode(response.content, type=_Models).data)
    except msgspec.MsgspecError:
        models = ()
    return Answer(address=address, status=response.status_code, models=models)


def check_servers(role: Role, answers: Sequence[Answer], *, model: str | None) -> list[Finding]:
    """Check the answers of a role's servers. Problems are only warnings if at least one server is usable.

    Args:
        role: the role.
        answers: of all its servers.
        model: the model's name in the settings, if set.
    """
    problems = [_problem(answer, ROLES[role].prefix, model) for answer in answers]
    report = warning if None in problems else failure
    found: list[Finding] = []
    for answer, problem in zip(answers, problems, strict=True):
        if problem is None:
            found.append(ok(f"{role} server", f"{answer.address} serves {', '.join(answer.models)}"))
        else:
            found.append(report(f"{role} server", *problem))
    return found


def _problem(answer: Answer, prefix: str, model: str | None) -> tuple[str, str] | None:
    """What was found and the advice, or None if the server is usable."""
    if answer.status is None:
        return (
            f"{answer.address} does not answer ({answer.error})",
            f"Start it, or correct VLLM_{prefix}_URL; the service waits for it",
        )
    if answer.status in (401, 403):
        return (
            f"{answer.address} rejects the API key (status {answer.status})",
            f"Set VLLM_{prefix}_API_KEY to the server's key",
        )
    if answer.status != httpx.codes.OK or not answer.models:
        return (
            f"{answer.address} does not answer like a vLLM server (status {answer.status} for /v1/models)",
            f"Correct VLLM_{prefix}_URL",
        )
    if model is not None and model not in answer.models:
        return (
            f"{answer.address} serves {', '.join(answer.models)}, not {model}",
            f"Set MODEL_{prefix}_NAME to a model that it serves, or remove it",
        )
    return None
