#!/usr/bin/env bash
# Makes targets of a client's Makefile, if the machine has the tools of its language. Otherwise it skips them with a
# message, which is a failure only if CI is set.
# usage: tools/client.sh LANGUAGE TARGET...
set -euo pipefail
language=$1
shift
PATH="$PATH:$PWD/.venv/bin" # where Go and Node.js are installed if the machine has none

case $language in
go) tools="go" ;;
typescript) tools="node npm" ;;
java) tools="javac mvn" ;;
rust) tools="cargo" ;;
esac

for tool in $tools; do
    command -v "$tool" >/dev/null || missing="${missing:-}$tool "
done
if [ -n "${missing:-}" ]; then
    echo "SKIPPED: client/$language ($*), because these are not installed: $missing" >&2
    [ -z "${CI:-}" ]
    exit
fi
exec make --no-print-directory -C "client/$language" "$@"
