"""A backend that plays a model for real agents: it calls their shell tool, then quotes the tool's output.

The service loads it with `GEN_BACKEND=tests.agents.scripted_agent.factory`. A user's message that contains a line
`Run: COMMAND` makes it call the first tool with a parameter for a command. Once the conversation has the output of
a tool, it answers with it. The conversations that it gets are appended to the file that CONVERSATIONS_FILE names.
"""

import os
import re
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from app.settings import Settings
from domain.choices import collect
from domain.conversation import Conversation, Function, Message, TextPart, ToolMessage, UserMessage
from domain.errors import BackendFailedError, WrongEndpointError
from domain.port import Events, InferenceBackend, ModelCard, RequestContext, StepListener, ignore_step
from domain.requests import GenerationRequest, Request, TokenizeRequest
from domain.results import (
    FinishReason,
    GenerationDelta,
    GenerationEvent,
    GenerationUsage,
    Tokenization,
    ToolCallDelta,
)
from domain.roles import Role
from domain.streams import open_stream

NAME = "scripted"
CONVERSATIONS_FILE = "SCRIPTED_AGENT_CONVERSATIONS"
MAX_MODEL_LEN = 200_000
CHARACTERS_PER_TOKEN = 4
COMMAND_PARAMETERS = ("cmd", "command")
"""Codex calls the parameter of its shell tool `cmd`, Claude Code `command`."""


class ScriptedAgent:
    """A generation model that does what the user asks."""

    async def start(self, on_step: StepListener = ignore_step) -> ModelCard:
        return ModelCard(name=NAME, role=Role.GENERATE, created=int(time.time()), max_model_len=MAX_MODEL_LEN)

    async def stop(self) -> None:
        pass

    async def probe(self) -> None:
        pass

    async def call(self, request: Request[Any], context: RequestContext) -> Any:
        if isinstance(request, TokenizeRequest) and isinstance(request.prompt, Conversation):
            return Tokenization(token_ids=[0] * count_tokens(request.prompt))
        return await collect(self._events(request))

    @asynccontextmanager
    async def stream(self, request: GenerationRequest, context: RequestContext) -> AsyncGenerator[Events, None]:
        async with open_stream(self._events(request)) as events:
            yield events

    async def _events(self, request: Request[Any]) -> AsyncGenerator[GenerationEvent, None]:
        if not isinstance(request, GenerationRequest):
            raise WrongEndpointError(f"The model '{NAME}' can't {request.operation}.", param="model")
        # The service asks for the continuation of a text before it is ready.
        conversation = request.prompt if isinstance(request.prompt, Conversation) else Conversation(messages=[])
        deltas = list(answer(conversation))
        if conversation.messages:
            record(conversation)
        for delta in deltas:
            yield delta
        yield GenerationUsage(prompt_tokens=count_tokens(conversation), completion_tokens=len(deltas))


def answer(conversation: Conversation) -> Iterator[GenerationDelta]:
    """The model's answer, in several deltas."""
    outputs = [text_of(message) for message in conversation.messages if isinstance(message, ToolMessage)]
    command = command_of(conversation)
    if outputs:
        yield from text(f"The command printed: {outputs[-1]}")
    elif command is None:
        yield from text("Ready.")
    else:
        yield from call(shell_tool(conversation.tools), command)


def text(words: str) -> Iterator[GenerationDelta]:
    """A text, in one delta per word."""
    for word in re.findall(r"\S+\s*|\s+", words):
        yield GenerationDelta(index=0, text=word)
    yield GenerationDelta(index=0, text="", finish_reason=FinishReason.STOP)


def call(tool: Function, command: str) -> Iterator[GenerationDelta]:
    """A call of a shell tool, its arguments in two deltas."""
    arguments = msgspec.json.encode({command_parameter(tool): command}).decode()
    half = len(arguments) // 2
    first = ToolCallDelta(index=0, id="call_of_the_shell", name=tool.name, arguments=arguments[:half])
    yield GenerationDelta(index=0, text="", tool_calls=[first])
    rest = ToolCallDelta(index=0, arguments=arguments[half:])
    yield GenerationDelta(index=0, text="", tool_calls=[rest], finish_reason=FinishReason.STOP)


def command_of(conversation: Conversation) -> str | None:
    """The command that the user asks for."""
    for message in conversation.messages:
        if isinstance(message, UserMessage) and (found := re.search(r"^Run: (.+)$", text_of(message), re.M)):
            return found[1]
    return None


def shell_tool(tools: list[Function]) -> Function:
    """The tool that runs a command."""
    found = [tool for tool in tools if command_parameter(tool) is not None]
    if not found:
        raise BackendFailedError(f"No tool has a command as parameter: {[tool.name for tool in tools]}.")
    return found[0]


def command_parameter(tool: Function) -> str | None:
    """The name of a tool's parameter for a command."""
    properties = (tool.parameters or {}).get("properties", {})
    return next((name for name in COMMAND_PARAMETERS if name in properties), None)


def text_of(message: Message) -> str:
    """A message's text."""
    content = message.content or ""
    if isinstance(content, str):
        return content
    return "\n".join(part.text for part in content if isinstance(part, TextPart))


def count_tokens(conversation: Conversation) -> int:
    """An estimate, at least 1."""
    return conversation.characters // CHARACTERS_PER_TOKEN + 1


def record(conversation: Conversation) -> None:
    """Append a conversation to the file, for the tests."""
    with Path(os.environ[CONVERSATIONS_FILE]).open("ab") as file:
        file.write(msgspec.json.encode(conversation) + b"\n")


def factory(role: Role, settings: Settings) -> InferenceBackend:
    """Create the backend."""
    return ScriptedAgent()
