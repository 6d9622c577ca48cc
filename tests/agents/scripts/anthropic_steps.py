"""Anthropic's SDK over the service: answers, streams, tools, a form, token counts, and its own loop of tools.

pip install anthropic
"""

import os
from typing import Any, Literal

import anthropic
from anthropic import DefaultHttpxClient, beta_tool
from pydantic import BaseModel
from recording import MODEL, Recording, report

recording = Recording()
client = anthropic.Anthropic(
    base_url=os.environ["OPENAI_BASE_URL"].removesuffix("/v1"),
    api_key="unused",
    http_client=DefaultHttpxClient(event_hooks={"request": [recording.note]}),
    max_retries=0,
)
# The SDK has no parameter for the temperature.
BRIEF: Any = {"model": MODEL, "max_tokens": 40, "extra_body": {"temperature": 0}}
QUESTION: Any = {"role": "user", "content": "What is the weather in Paris?"}
TOOL: Any = {
    "name": "weather",
    "description": "Weather of a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
        "required": ["city"],
    },
}


class Weather(BaseModel):
    sky: Literal["clear", "cloudy"]
    windy: bool


@beta_tool
def weather(city: Literal["Paris", "Rome"]) -> str:
    """Weather of a city."""
    return f"It is sunny in {city}."


def text_of(message: Any) -> str:
    """The text of a message."""
    return "".join(block.text for block in message.content if block.type == "text")


def use_tools_by_hand() -> None:
    """Call a tool, and send its result back."""
    called = client.messages.create(**BRIEF, messages=[QUESTION], tools=[TOOL], tool_choice={"type": "any"})
    (use,) = called.content
    assert use.type == "tool_use"
    result: Any = {"type": "tool_result", "tool_use_id": use.id, "content": "It is sunny."}
    turns: Any = [
        QUESTION,
        {"role": "assistant", "content": called.content},
        {"role": "user", "content": [result]},
    ]
    answered = client.messages.create(**BRIEF, messages=turns, tools=[TOOL], tool_choice={"type": "auto"})
    report("tools", reason=called.stop_reason, call={use.name: use.input}, answer=text_of(answered))


def use_the_tool_runner(*, stream: bool) -> None:
    """Let the SDK run the tool. It first asks the service to keep the conversation."""
    recording.take()
    runner: Any = client.beta.messages.tool_runner(
        **BRIEF, messages=[QUESTION], tools=[weather], tool_choice={"type": "any"}, stream=stream
    )
    messages = []
    for each in runner:
        messages.append(each.get_final_message() if stream else each)
        runner.set_messages_params(lambda params: {**params, "tool_choice": {"type": "auto"}})
    report(
        "tool runner, streamed" if stream else "tool runner",
        reasons=[message.stop_reason for message in messages],
        answer=text_of(messages[-1]),
        sent=[request["body"] for request in recording.take()],
    )


created = client.messages.create(**BRIEF, messages=[{"role": "user", "content": "Name a color."}])
report("create", answer=text_of(created), reason=created.stop_reason, output_tokens=created.usage.output_tokens)

with client.messages.stream(**BRIEF, system="Be brief.", messages=[QUESTION]) as stream:
    pieces = list(stream.text_stream)
    report("stream", pieces=pieces, answer=text_of(stream.get_final_message()))

counted = [client.messages.count_tokens(model=MODEL, messages=[QUESTION], tools=tools) for tools in ([], [TOOL])]
report("count", tokens=[count.input_tokens for count in counted])

parsed = client.messages.parse(**BRIEF, messages=[QUESTION], output_format=Weather)
assert parsed.parsed_output is not None
report("form", answer=parsed.parsed_output.model_dump())

report("models", ids=[model.id for model in client.models.list()], one=client.models.retrieve(MODEL).id)
use_tools_by_hand()
use_the_tool_runner(stream=False)
use_the_tool_runner(stream=True)
