"""From a GGUF file to a transformers folder: `python -m adapters.models.convert FILE FOLDER`.

A program of its own, because it needs gigabytes of memory for a few seconds that the service should not keep.
vLLM reads such folders, and no GGUF.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig


def convert(source: Path, target: Path) -> None:
    """Write the model and tokenizer of a GGUF file as bf16 safetensors.

    The dtype is that of the original weights; the file's own 4-bit blocks are unpacked, since without
    `dequantize` transformers can't save them.
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
