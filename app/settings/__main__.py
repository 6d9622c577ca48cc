"""Prints .env.example; with --page docs/settings.md, with --readme the README's table."""

import sys

from app.settings.documents import env_example, readme_table, settings_page

if __name__ == "__main__":
    printed = {"--page": settings_page, "--readme": readme_table}.get("".join(sys.argv[1:]), env_example)
    print(printed(), end="")
