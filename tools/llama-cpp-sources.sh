#!/bin/sh
# Unpacks the sources of llama.cpp that the source distribution of llama-cpp-python carries, and prints their folder.
# usage: tools/llama-cpp-sources.sh VENV FOLDER
set -eu
python="$1/bin/python"
version=$("$python" -m pip show llama-cpp-python | sed -n 's/^Version: //p')
"$python" -m pip download --quiet --no-deps --no-binary llama-cpp-python --dest "$2" "llama-cpp-python==$version" >&2
tar -xzf "$2"/llama_cpp_python-*.tar.gz -C "$2"
echo "$2"/llama_cpp_python-*/vendor/llama.cpp
