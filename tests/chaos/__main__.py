"""`python -m tests.chaos`: faults under load for a set time; exits with 1 if an answer was wrong or lost."""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.chaos.run import run, table
from tests.tiny_rerankers import make_all_tiny_models


def main() -> int:
    """Run, print the table, and tell whether all was well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=15.0, help="how long; each fault comes at least once")
    parser.add_argument("--clients", type=int, default=4, help="of each of the five kinds of request")
    parser.add_argument("--output", type=Path, help="also write the table there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = make_all_tiny_models(Path(folder))
        rows, health = asyncio.run(
            run(models, minutes=options.minutes, clients=options.clients, say=lambda text: print(text, flush=True))
        )
    found = table(rows) + "\n" + "\n".join(health) + "\n"
    print(found)
    for row in rows:
        for note in row.notes:
            print(f"{row.fault}: {note}")
    if options.output:
        options.output.write_text(found)
    return 1 if any(row.hit.wrong or row.hit.lost for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
