"""Writes the generated pages of docs/reference.

python -m tools.reference            write them
python -m tools.reference --check    fail if a committed page differs from the generated one
"""

from __future__ import annotations

import argparse
import difflib
import sys

from tools.reference import contract, errors, rpcs, settings

FOLDER = contract.ROOT / "docs" / "reference"


def main() -> int:
    """Runs the generator and returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.reference", description="Writes the pages of docs/reference."
    )
    parser.add_argument("--check", action="store_true", help="write nothing, and fail if a committed page is stale")
    is_check = parser.parse_args().check
    files = contract.read()
    pages = {"settings.md": settings.page(), "errors.md": errors.page(files), "rpcs.md": rpcs.page(files)}
    if not is_check:
        for name, text in pages.items():
            (FOLDER / name).write_text(text, encoding="utf-8")
        return 0
    stale = [line for name, text in pages.items() for line in _differences(name, text)]
    lines = stale or ["The pages of docs/reference match the settings and the contract."]
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if stale else 0


def _differences(name: str, generated: str) -> list[str]:
    page = FOLDER / name
    committed = page.read_text(encoding="utf-8") if page.exists() else ""
    names = (f"committed {name}", f"generated {name}")
    return list(difflib.unified_diff(committed.splitlines(), generated.splitlines(), *names, lineterm=""))


if __name__ == "__main__":
    sys.exit(main())
