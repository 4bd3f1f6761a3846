#!/bin/sh
# Writes the Python stubs of the contract, with types, to a folder (default: the client's).
# usage: tools/generate.sh PYTHON [OUT]
set -eu
python=$1
out=${2:-client/python}
mkdir -p "$out"
PATH="$(dirname "$python"):$PATH" "$python" -m grpc_tools.protoc \
    --proto_path=protos \
    --python_out="$out" --grpc_python_out="$out" --mypy_out="$out" --mypy_grpc_out="$out" \
    protos/palaver/v1/*.proto
