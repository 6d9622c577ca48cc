"""Makes texts of clients storable: PostgreSQL's texts hold neither NUL characters nor lone surrogates."""

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def storable(text: str) -> str:
    """The text, with what can't be stored replaced; every id and owner passes here, when written and when read."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", REPLACEMENT).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
