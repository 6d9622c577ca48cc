"""Makes two tiny models with random weights in seconds: real architectures, for comparisons and tests."""

from pathlib import Path

from domain.errors import ConfigurationError
from domain.roles import Role

# What the tokenizers are trained on.
CORPUS = [
    "The quick brown fox jumps over the lazy dog while the cat sleeps in the warm sun.",
    "A service that runs two models on one machine answers many clients at the same time.",
    "Paris is the capital of France, and Berlin is the capital of Germany.",
    "Numbers such as 1 2 3 4 5 6 7 8 9 0 appear in every text, and so do commas, dots and dashes.",
]
VOCABULARY = 512
# What templates and parsers of real models know: marks of thinking and of tool calls, and holes to fill.
MARKS = ["<think>", "</think>", "<tool_call>", "</tool_call>"]
HOLES = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"]
# Lengths that the embedder says it was trained for.
LENGTHS = [16, 32, 64]
CHAT_TEMPLATE = """\
{%- if tools %}{% for tool in tools %}tool: {{ tool | tojson }}
{% endfor %}{% endif -%}
{%- for message in messages %}{{ message.role }}: {{ message.content or "" }}
{%- for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}
{% endfor -%}
{%- if add_generation_prompt %}assistant:
{%- if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{% endif -%}
"""
MAX_MODEL_LEN = 512
HIDDEN = 64


def cached_tiny_models(cache: Path) -> dict[Role, Path]:
    """Folders of both models by role; makes them if they are not in the cache yet.

    Raises:
        ConfigurationError: they can't be made, because vLLM and its libraries are not installed.
    """
    folder = cache / "tiny"
    models = {Role.EMBED: folder / "tiny-embed", Role.GENERATE: folder / "tiny-gen"}
    if not all((model / "model.safetensors").exists() for model in models.values()):
        try:
            make_tiny_models(folder)
        except ImportError as error:
            raise ConfigurationError(
                f"Tiny models can't be made here ({error}). Install vLLM with `make install INSTALL=cpu` (or gpu)."
            ) from error
    return models


def make_tiny_models(folder: Path) -> dict[str, Path]:
    """Folders of a generator (Qwen3, 1 layer × 64) and an embedder (the same, last-token pooling)."""
    return {name: _make(folder / name, seed) for name, seed in (("tiny-embed", 1), ("tiny-gen", 2))}


def _make(folder: Path, seed: int) -> Path:
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(MARKS) - len(HOLES),
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in MARKS])
    tokenizer.add_special_tokens([AddedToken(hole, normalized=False) for hole in HOLES])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        model_max_length=MAX_MODEL_LEN,
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=MAX_MODEL_LEN,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        matryoshka_dimensions=LENGTHS,
    )
    Qwen3ForCausalLM(config).to(torch.float32).save_pretrained(folder)
    return folder
