"""LangChain over the service: sort what a search has found by its relevance to the question.

pip install langchain-cohere
"""

import os

from langchain_cohere import CohereRerank
from langchain_core.documents import Document

# Cohere's clients add /v2/rerank themselves.
BASE_URL = os.environ.get("OPENAI_BASE_URL", "http://localhost:8200/v1").removesuffix("/v1")
TEXTS = [
    "Revenue grew by four percent in the last quarter.",
    "The cat is a small animal that people keep to catch mice.",
    "Paris is the capital of France and lies on the river Seine.",
]

# Without a reranking model the embedding model scores the documents.
reranker = CohereRerank(model="all-MiniLM-L6-v2", base_url=BASE_URL, cohere_api_key="unused", top_n=2)
documents = [Document(page_content=text, metadata={"number": number}) for number, text in enumerate(TEXTS)]
best = reranker.compress_documents(documents, "Which city is the seat of the French government?")
print("best:", best[0].page_content)
print("number:", best[0].metadata["number"])
print("count:", len(best))
print("scores:", *(f"{document.metadata['relevance_score']:.4f}" for document in best))
