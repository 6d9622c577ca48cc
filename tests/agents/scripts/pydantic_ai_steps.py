"""Pydantic AI over the service, with its default for `openai:`: a tool, two ways to get an object, a stream.

pip install 'pydantic-ai-slim[openai]'
"""

import asyncio
from typing import Any, Literal

from pydantic import BaseModel
from pydantic_ai import Agent, ModelSettings, NativeOutput, RunContext
from recording import MODEL, report

NAME = f"openai:{MODEL}"
BRIEF = ModelSettings(temperature=0, max_tokens=60)


class Weather(BaseModel):
    sky: Literal["clear", "cloudy"]
    windy: bool


def call_first(context: RunContext[None]) -> ModelSettings:
    """Force a call in the first step, and an answer afterwards."""
    return ModelSettings(**BRIEF, tool_choice="required" if context.run_step <= 1 else "auto")


caller = Agent(NAME, instructions="Be brief.", model_settings=call_first)


@caller.tool_plain
def weather(city: Literal["Paris", "Rome"]) -> str:
    """Weather of a city."""
    return f"It is sunny in {city}."


def describe(result: Any) -> dict[str, Any]:
    """The parts of a run's messages, its output and its responses."""
    messages = result.all_messages()
    return {
        "parts": [part.part_kind for message in messages for part in message.parts],
        "returned": [
            part.content for message in messages for part in message.parts if part.part_kind == "tool-return"
        ],
        "responses": [message.provider_response_id for message in messages if message.kind == "response"],
        "tokens": result.usage.total_tokens,
    }


async def main() -> None:
    """Run the steps."""
    first = await caller.run("What is the weather in Paris?")
    report("tool", **describe(first), answer=first.output)
    speaker = Agent(NAME, model_settings=BRIEF)
    second = await speaker.run("And tomorrow?", message_history=first.all_messages())
    report("history", **describe(second), answer=second.output)

    for step, form in (("form by tool", Weather), ("form by schema", NativeOutput(Weather))):
        reporter: Agent[None, Weather] = Agent(NAME, output_type=form, model_settings=BRIEF)
        formed = await reporter.run("Invent the weather of tomorrow.")
        report(step, **describe(formed), answer=formed.output.model_dump())

    async with speaker.run_stream("Name a color.") as stream:
        pieces = [piece async for piece in stream.stream_text(delta=True, debounce_by=None)]
        report("stream", pieces=pieces, answer=await stream.get_output())


asyncio.run(main())
