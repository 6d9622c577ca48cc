"""OpenAI's Agents SDK over the service: a tool in the loop, three ways to continue, streams, a WebSocket, a form.

pip install openai-agents
"""

import asyncio
import os
from typing import Any, Literal

from agents import (
    Agent,
    ModelSettings,
    Runner,
    function_tool,
    set_default_openai_client,
    set_default_openai_responses_transport,
    set_tracing_disabled,
)
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from pydantic import BaseModel
from recording import MODEL, Recording, report

# Traces would go to OpenAI.
set_tracing_disabled(True)
recording = Recording()
http = DefaultAsyncHttpxClient(event_hooks={"request": [recording.anote]})
client = AsyncOpenAI(base_url=os.environ["OPENAI_BASE_URL"], api_key="unused", http_client=http, max_retries=0)
set_default_openai_client(client, use_for_tracing=False)


@function_tool
def weather(city: Literal["Paris", "Rome"]) -> str:
    """Weather of a city."""
    return f"It is sunny in {city}."


# The SDK resets the tool choice after the first call, so that the model answers.
forced = ModelSettings(tool_choice="required", temperature=0, max_tokens=60)
free = ModelSettings(temperature=0, max_tokens=60)
caller = Agent(name="caller", instructions="Be brief.", model=MODEL, tools=[weather], model_settings=forced)
speaker = Agent(name="speaker", instructions="Be brief.", model=MODEL, model_settings=free)


class Weather(BaseModel):
    sky: Literal["clear", "cloudy"]
    windy: bool


def describe(result: Any) -> dict[str, Any]:
    """A run's items, its answer, and what it has sent."""
    return {
        "items": [item.type for item in result.new_items],
        "outputs": [item.output for item in result.new_items if item.type == "tool_call_output_item"],
        "answer": result.final_output,
        "sent": recording.take(),
        "response": result.last_response_id,
        "tokens": result.context_wrapper.usage.total_tokens,
    }


async def main() -> None:
    """Run the steps."""
    first = await Runner.run(caller, "What is the weather in Paris?")
    report("stateless", **describe(first))
    whole = [*first.to_input_list(), {"role": "user", "content": "And tomorrow?"}]
    report("whole history", **describe(await Runner.run(speaker, whole)))

    report("chained", **describe(await Runner.run(caller, "What is the weather?", auto_previous_response_id=True)))
    again = await Runner.run(speaker, "And tomorrow?", previous_response_id=first.last_response_id)
    report("previous response", **describe(again))

    conversation = await client.conversations.create()
    recording.take()
    inside = await Runner.run(caller, "What is the weather in Rome?", conversation_id=conversation.id)
    described = describe(inside)
    stored = [item.type async for item in client.conversations.items.list(conversation.id, order="asc")]
    recording.take()
    report("conversation", **described, conversation=conversation.id, stored=stored)

    stream = Runner.run_streamed(caller, "What is the weather in Paris?")
    deltas = [
        event.data.delta
        async for event in stream.stream_events()
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]
    report("stream", **describe(stream), deltas=deltas)

    reporter = Agent(name="reporter", model=MODEL, output_type=Weather, model_settings=free)
    formed = await Runner.run(reporter, "Invent the weather of tomorrow.")
    recording.take()
    report("form", answer=formed.final_output.model_dump())

    set_default_openai_responses_transport("websocket")
    report("websocket", **describe(await Runner.run(caller, "What is the weather in Paris?")))


asyncio.run(main())
