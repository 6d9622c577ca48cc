"""LiteLLM over the service: the prefix `openai/` tells it which protocol to speak.

pip install litellm
Without LITELLM_LOCAL_MODEL_COST_MAP=True it also fetches a list of prices from the internet when it starts.
"""

import os
from typing import Literal

import litellm
from pydantic import BaseModel

SERVICE = {"api_base": os.environ.get("OPENAI_BASE_URL", "http://localhost:8200/v1"), "api_key": "unused"}
CHAT = {"model": "openai/SmolLM2-135M-Instruct", "temperature": 0, **SERVICE}
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]

answer = litellm.completion(messages=QUESTION, max_tokens=20, **CHAT)
print("answer:", answer.choices[0].message.content.replace("\n", " "))
print("tokens:", answer.usage.total_tokens)

# The same, piece by piece; the usage comes last.
stream = litellm.completion(
    messages=QUESTION, max_tokens=20, stream=True, stream_options={"include_usage": True}, **CHAT
)
chunks = list(stream)
pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
print("pieces:", len(pieces))
print("streamed:", "".join(pieces).replace("\n", " "))
print("streamed tokens:", chunks[-1].usage.total_tokens)


class Weather(BaseModel):
    sky: Literal["clear", "cloudy"]
    windy: bool


# An object instead of words: the service lets the model write nothing else.
asked = [{"role": "user", "content": "Invent the weather of tomorrow. Answer in JSON."}]
structured = litellm.completion(messages=asked, max_tokens=100, response_format=Weather, **CHAT)
print("structured:", Weather.model_validate_json(structured.choices[0].message.content).model_dump_json())


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


# Which of these is nearest to a kitten?
texts = ["kitten", "cat", "revenue"]
vectors = litellm.embedding(model="openai/all-MiniLM-L6-v2", input=texts, **SERVICE)
kitten, cat, revenue = (item["embedding"] for item in vectors.data)
nearness = {"cat": dot(kitten, cat), "revenue": dot(kitten, revenue)}
print("nearest:", max(nearness, key=nearness.get))

# Errors come as the kinds that OpenAI's SDK has.
try:
    litellm.completion(messages=QUESTION, **{**CHAT, "model": "openai/nobody"})
except litellm.NotFoundError as error:
    print("error:", error.status_code)
