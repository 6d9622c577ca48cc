"""Defines texts that distinguish one tokenizer from another."""

PROBES = (
    "The quick brown fox jumps over the lazy dog.",
    " Leading space, TABS\tand\nlines; numbers 1234567890 and 3.14.",
    "Straße, naïve, Ελληνικά, русский, 日本語, العربية, 🙂👩‍👩‍👧",
    "<s></s>[CLS][SEP]<|endoftext|><|im_start|>",
    "x" * 300,
)
"""They cover what tokenizers differ in: case, whitespace, digits, scripts, combining marks and long words."""
