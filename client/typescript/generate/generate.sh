#!/bin/sh
# Writes the generated code into a folder (default: src/gen): the contract's, and the messages of google.rpc, which the
# details of errors are made of.
# usage: generate/generate.sh [OUT]
set -eu
cd "$(dirname "$0")/.."
out=${1:-src/gen}
tools=generate/node_modules
template='{"version": "v2", "plugins": [{"local": "'$tools/.bin/protoc-gen-es'", "out": "'$out'",
  "opt": ["target=ts", "import_extension=js"]}]}'
rm -rf "$out"
"$tools/.bin/buf" generate --template "$template" ../../protos
"$tools/.bin/buf" generate --template "$template" "$tools/google-proto-files" \
    --path "$tools/google-proto-files/google/rpc/error_details.proto" \
    --path "$tools/google-proto-files/google/rpc/status.proto"
