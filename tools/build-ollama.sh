#!/bin/sh
# Builds Ollama from its Go module, which lacks the headers of other projects. llama.cpp's sources have the same ones.
# usage: tools/build-ollama.sh VENV     (makes VENV/bin/ollama; VENV has llama-cpp-python)
set -eu
version=v0.17.4
venv=$(cd "$1" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
vendor=$("$(dirname "$0")/llama-cpp-sources.sh" "$venv" "$work")/vendor
CGO_ENABLED=1 CGO_CFLAGS="-O2 -I$vendor -I$vendor/stb" CGO_CXXFLAGS="-O2 -I$vendor -I$vendor/stb" GOBIN="$venv/bin" \
    go install "github.com/ollama/ollama@$version"
