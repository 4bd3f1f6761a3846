"""Runs the `palaver` command with `python -m palaver`."""

from palaver.cli import main

if __name__ == "__main__":
    main()
