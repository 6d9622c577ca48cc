"""Unsupported patterns are rejected; others are rewritten without characters that JSON escapes."""

import pytest

from adapters.vllm.dialect.pattern import PatternError, length_pattern, rewrite_pattern


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        ("^a\tb$", "control"), (r"^a\tb$", "control"), ('^"$', "control"), (r"^C:\\", "control"),
        (r"^(a|\n)$", "control"),
        (r"^[\t\n]$", "control"), (r"^\cJ$", "control"), (r"^[\b]$", "control"), ("[]", "control"),
        ("^(?=a)a$", "lookaround"), ("^(?!b)a$", "lookaround"), ("(?<=a)b", "lookaround"), ("(?i:a)", "flag"),
        (r"\bword\b", r"\\b"),
        (r"^(a)\1$", r"\\1"), (r"^\p{L}+$", r"\\p"), ("a^b", r"'\^' in the middle"),
        ("a$b", r"'\$' in the middle"),
        ("(a$)b", r"'\$' in the middle"), ("(a$)*", r"'\$' in the middle"), ("[a", "not closed"),
        ("a)", "unmatched"),
        ("[z-a]", "wrong order"), ("a\\", "backslash"),
    ],
)  # fmt: skip
def test_unsupported_patterns_are_rejected(pattern: str, what: str) -> None:
    with pytest.raises(PatternError, match=what):
        rewrite_pattern(pattern)


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("", "^$"), ("a", "^a$"), ("^a|b$", "a|b"), ("^(^a$)$", "^(?:a)$"), (r"^\x61\/\u00e9$", r"^a\/é$"),
        ("^[^a]$", r"^[ -!#-\[\]-`b-\ud7ff\ue000-\u{10ffff}]$"), (".", r"^[ -!#-\[\]-\ud7ff\ue000-\u{10ffff}]$"),
        (r"^\d{2}\w$", "^[0-9]{2}[0-9A-Z_a-z]$"), ("^[ -~]$", r"^[ -!#-\[\]-~]$"),
        (length_pattern(1, 2), length_pattern(1, 2)),
    ],
)  # fmt: skip
def test_characters_that_json_escapes_are_removed_from_classes(pattern: str, wanted: str) -> None:
    assert rewrite_pattern(pattern) == wanted
    assert rewrite_pattern(wanted) == wanted
