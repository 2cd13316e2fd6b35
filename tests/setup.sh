#!/bin/sh
# Sets up the tools that some tests need. Never fails: what cannot be had is named, and the tests that need it skip
# themselves and say so.
set -u

missing=""
need() { # command, package, what for
    command -v "$1" >/dev/null 2>&1 || PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
look() {
    missing=""
    need mkfs.ext4 e2fsprogs
    need losetup mount
    need python3 python3
    need strace strace
}

look
if [ -n "$missing" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "setup: installing$missing"
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086
    timeout 300 apt-get install -y -q --no-install-recommends $missing >/dev/null 2>&1 </dev/null || {
        timeout 120 apt-get update -q >/dev/null 2>&1 </dev/null
        timeout 300 apt-get install -y -q --no-install-recommends $missing >/dev/null 2>&1 </dev/null
    }
    look
fi
[ -z "$missing" ] || echo "setup: not available:$missing; the tests that need them will be skipped"
[ "$(id -u)" = 0 ] || echo "setup: not root: the power-cut tests will be skipped"
exit 0
