"""Converts a GGUF file to a transformers folder: `python -m adapters.models.convert FILE FOLDER`.

A separate program, because it needs gigabytes of memory for a few seconds, which the service should not retain.
vLLM loads such folders but not GGUF files.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig


def convert(source: Path, target: Path) -> None:
    """Write the model and tokenizer of a GGUF file as bf16 safetensors.

    bf16 is the dtype of the original weights. The file's 4-bit blocks are dequantized, because transformers can't
    save them otherwise.
    """
    folder, file = str(source.parent), source.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=file, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
