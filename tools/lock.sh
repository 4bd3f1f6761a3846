#!/usr/bin/env bash
# Resolves the dependencies of pyproject.toml into two files. Versions that are there already stay, unless they no longer
# fit or `--upgrade` is given.
#   server.lock   what is deployed: the newest versions, with hashes
#   floors.txt    the lowest versions that pyproject.toml allows, with the tools of the tests, for `make test-floors`
# usage: tools/lock.sh FOLDER [--upgrade]
set -euo pipefail
folder=$1
shift

compile() {
    uv pip compile pyproject.toml --quiet --universal --python-version 3.10 --custom-compile-command "make lock" "$@"
}

compile --extra server --extra otel --extra cli --generate-hashes --output-file "$folder/server.lock" "$@"
compile --extra server --extra otel --extra cli --extra skills --group test --resolution lowest-direct --no-annotate \
    --output-file "$folder/floors.txt" "$@"
