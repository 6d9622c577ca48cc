"""LangChain over the service: search own texts, answer from them, and get objects and tool calls back.

pip install langchain-openai numpy
"""

import os
from typing import Literal

from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

BASE_URL = os.environ.get("OPENAI_BASE_URL", "http://localhost:8200/v1")
TEXTS = [
    "Paris is the capital of France and lies on the river Seine.",
    "The cat is a small animal that people keep to catch mice.",
    "Revenue grew by four percent in the last quarter.",
]

# Left to itself, LangChain would cut the texts into tokens of an OpenAI model and send their numbers, which
# mean other words to this one.
embeddings = OpenAIEmbeddings(
    model="all-MiniLM-L6-v2", base_url=BASE_URL, api_key="unused", check_embedding_ctx_length=False
)
chat = ChatOpenAI(
    model="SmolLM2-135M-Instruct", base_url=BASE_URL, api_key="unused", temperature=0, max_completion_tokens=100
)

# Find the text that a question is about, and let the model answer from it.
store = InMemoryVectorStore.from_texts(TEXTS, embeddings)
question = "Which city is the seat of the French government?"
found = store.similarity_search(question, k=1)[0].page_content
print("found:", found)

prompt = ChatPromptTemplate.from_messages(
    [("system", "Answer in one sentence, only from this text: {text}"), ("user", "{question}")]
)
answer = (prompt | chat).invoke({"text": found, "question": question})
print("answer:", answer.text.replace("\n", " "))
print("tokens:", answer.usage_metadata["total_tokens"])

# The same, piece by piece.
pieces = [piece.text for piece in (prompt | chat).stream({"text": found, "question": question})]
print("pieces:", len([piece for piece in pieces if piece]))
print("streamed:", "".join(pieces).replace("\n", " "))


class Weather(BaseModel):
    sky: Literal["clear", "cloudy"]
    windy: bool


# An object instead of words: the service lets the model write nothing else.
reporter = chat.with_structured_output(Weather, method="json_schema")
weather = reporter.invoke("Invent the weather of tomorrow. Answer in JSON.")
print("structured:", weather.model_dump_json())


@tool
def get_weather(city: Literal["Paris", "Rome"]) -> str:
    """Tell the weather in a city."""
    return f"It is sunny in {city}."


# A tool's call, which the program carries out.
caller = chat.bind_tools([get_weather], tool_choice="get_weather")
call = caller.invoke("What is the weather in Paris?").tool_calls[0]
print("tool:", get_weather.invoke(call["args"]))
