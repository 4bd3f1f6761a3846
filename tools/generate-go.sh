#!/bin/sh
# Writes the Go stubs of the contract to a folder (default: the client's), with the protoc of the Python stubs and the
# plugins that client/go/go.mod pins.
# usage: tools/generate-go.sh PYTHON [OUT]
set -eu
python=$1
out=${2:-client/go}
module=github.com/palaver-chat/palaver/client/go
plugins=$PWD/build/go-plugins
mkdir -p "$plugins" "$out"
go -C client/go build -o "$plugins/" tool
rm -f "$out"/palaver/v1/*.pb.go
PATH="$plugins:$PATH" "$python" -m grpc_tools.protoc \
    --proto_path=protos \
    --go_out="$out" --go_opt=module="$module" \
    --go-grpc_out="$out" --go-grpc_opt=module="$module" \
    protos/palaver/v1/*.proto
