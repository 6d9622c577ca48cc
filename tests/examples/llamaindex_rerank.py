"""LlamaIndex over the service: sort what a retriever has found by its relevance to the question.

pip install llama-index-postprocessor-cohere-rerank
"""

import os

from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.postprocessor.cohere_rerank import CohereRerank

# Cohere's clients add /v2/rerank themselves.
BASE_URL = os.environ.get("OPENAI_BASE_URL", "http://localhost:8200/v1").removesuffix("/v1")
TEXTS = [
    "Revenue grew by four percent in the last quarter.",
    "The cat is a small animal that people keep to catch mice.",
    "Paris is the capital of France and lies on the river Seine.",
]

# Without a reranking model the embedding model scores the documents.
reranker = CohereRerank(model="all-MiniLM-L6-v2", base_url=BASE_URL, api_key="unused", top_n=2)
nodes = [NodeWithScore(node=TextNode(text=text), score=0.0) for text in TEXTS]
best = reranker.postprocess_nodes(nodes, query_str="Which city is the seat of the French government?")
print("best:", best[0].text)
print("count:", len(best))
print("scores:", *(f"{node.score:.4f}" for node in best))
