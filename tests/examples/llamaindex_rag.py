"""LlamaIndex over the service: an index of own texts, and answers from what it finds.

pip install llama-index-core llama-index-llms-openai-like llama-index-embeddings-openai-like
"""

import os

from llama_index.core import Document, VectorStoreIndex
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike

BASE_URL = os.environ.get("OPENAI_BASE_URL", "http://localhost:8200/v1")
TEXTS = [
    "Paris is the capital of France and lies on the river Seine.",
    "The cat is a small animal that people keep to catch mice.",
    "Revenue grew by four percent in the last quarter.",
]

embeddings = OpenAILikeEmbedding(model_name="all-MiniLM-L6-v2", api_base=BASE_URL, api_key="unused")
chat = OpenAILike(
    model="SmolLM2-135M-Instruct",
    api_base=BASE_URL,
    api_key="unused",
    is_chat_model=True,
    context_window=8192,
    temperature=0,
    max_tokens=30,
)

index = VectorStoreIndex.from_documents([Document(text=text) for text in TEXTS], embed_model=embeddings)
question = "Which city is the seat of the French government?"

# Find the text that a question is about, and let the model answer from it.
answer = index.as_query_engine(llm=chat, similarity_top_k=1).query(question)
print("found:", answer.source_nodes[0].text)
print("answer:", str(answer).replace("\n", " "))

# The same, piece by piece.
pieces = list(index.as_query_engine(llm=chat, similarity_top_k=1, streaming=True).query(question).response_gen)
print("pieces:", len([piece for piece in pieces if piece]))
print("streamed:", "".join(pieces).replace("\n", " "))

# A conversation that remembers what was said, over the same texts.
engine = index.as_chat_engine(chat_mode="context", llm=chat, similarity_top_k=1)
engine.chat("Hello!")
print("chat:", engine.chat(question).response.replace("\n", " "))
print("messages:", len(engine.chat_history))
