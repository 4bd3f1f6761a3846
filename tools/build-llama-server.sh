#!/bin/sh
# Builds llama.cpp's own server from the sources that come with llama-cpp-python.
# usage: tools/build-llama-server.sh VENV     (makes VENV/bin/llama-server)
set -eu
venv=$(cd "$1" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
source=$("$(dirname "$0")/llama-cpp-sources.sh" "$venv" "$work")
"$venv/bin/cmake" -S "$source" -B "$work/build" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF \
    -DGGML_NATIVE=OFF -DGGML_OPENMP=OFF -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF \
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF
"$venv/bin/cmake" --build "$work/build" --target llama-server --parallel 2
cp "$work/build/bin/llama-server" "$venv/bin/llama-server"
