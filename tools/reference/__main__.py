"""Writes the generated pages of docs/reference.

python -m tools.reference            write them
python -m tools.reference --check    fail if a committed page differs from the generated one
"""

from __future__ import annotations

import argparse
import difflib
import sys
from pathlib import Path

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
    stale = [difference for name, text in pages.items() for difference in _differences(FOLDER / name, text)]
    sys.stdout.writelines(stale or ["The committed pages of docs/reference match the settings and the contract.\n"])
    return 1 if stale else 0


def _differences(committed: Path, generated: str) -> list[str]:
    text = committed.read_text(encoding="utf-8") if committed.exists() else ""
    return list(
        difflib.unified_diff(
            text.splitlines(keepends=True), generated.splitlines(keepends=True), str(committed.relative_to(contract.ROOT)), "generated"
        )
    )


if __name__ == "__main__":
    sys.exit(main())
