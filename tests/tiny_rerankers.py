"""Makes tiny reranking models with random weights, and the scores that transformers computes with them."""

from collections.abc import Sequence
from pathlib import Path

from app.commands.bench.tiny_models import CORPUS, make_tiny_models

MAX_MODEL_LEN = 256
VOCABULARY = 400
QUERY = "What is the capital of France?"
DOCUMENTS = [
    "Paris is the capital of France.",
    "The quick brown fox jumps over the lazy dog.",
    "Berlin is the capital of Germany, and Paris of France.",
    "7 8 9",
]


def make_all_tiny_models(folder: Path) -> dict[str, Path]:
    """Folders of one tiny model for each role."""
    return make_tiny_models(folder) | {"tiny-rerank": make_cross_encoder(folder / "tiny-rerank")}


def make_cross_encoder(folder: Path, *, labels: int = 1, seed: int = 3) -> Path:
    """A BERT that reads query and document together, with the tokenizer's usual special tokens."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, special.index(name)) for name in ("[CLS]", "[SEP]")],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=MAX_MODEL_LEN,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(folder)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=MAX_MODEL_LEN,
        num_labels=labels,
        # Scores that differ from each other.
        initializer_range=0.3,
    )
    BertForSequenceClassification(config).eval().save_pretrained(folder)
    return folder


def make_qwen3_reranker(folder: Path, generator: Path, *, seed: int = 4) -> Path:
    """A Qwen3 that answers "yes" or "no", as Qwen3-Reranker is published.

    Args:
        folder: for the model.
        generator: folder of the tiny generator, whose tokenizer it extends.
        seed: of the weights.
    """
    import torch
    from transformers import AutoConfig, AutoTokenizer, Qwen3ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(generator)
    tokenizer.add_tokens(["yes", "no"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = AutoConfig.from_pretrained(generator)
    config.vocab_size, config.initializer_range = len(tokenizer), 0.3
    Qwen3ForCausalLM(config).to(torch.float32).eval().save_pretrained(folder)
    return folder


def cross_encoder_scores(folder: Path, queries: Sequence[str], documents: Sequence[str]) -> list[float]:
    """What transformers computes, 0 … 1."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return [
            torch.sigmoid(model(**tokenizer(query, document, return_tensors="pt")).logits).item()
            for query, document in zip(queries, documents, strict=True)
        ]


def qwen3_scores(folder: Path, prompts: Sequence[str]) -> list[float]:
    """What transformers computes: the probability of "yes" as the next token, with "no" as the alternative."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    answers = tokenizer.convert_tokens_to_ids(["no", "yes"])
    with torch.no_grad():
        return [
            torch.softmax(model(**tokenizer(prompt, return_tensors="pt")).logits[0, -1, answers], 0)[1].item()
            for prompt in prompts
        ]
