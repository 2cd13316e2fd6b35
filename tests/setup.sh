#!/bin/sh
# Sets up the tools that some tests need. Never fails: what cannot be had is named, and `make test` leaves out the
# tests that need it and lists them as SKIPPED. What is there already and unchanged costs nothing.
set -u
cd "$(dirname "$0")/.." || exit 0

missing=""
need() { # command, package, what for
    command -v "$1" >/dev/null 2>&1 || PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
look() {
    missing=""
    need mkfs.ext4 e2fsprogs
    need mkfs.xfs xfsprogs
    need faketime faketime
    need losetup mount
    need python3 python3
    need strace strace
    need node nodejs
    need npm npm
    # Debian's Python has no venv of its own.
    python3 -c 'import ensurepip' >/dev/null 2>&1 || missing="$missing python3-venv"
}
look_for_browser() {
    missing=""
    need chromium chromium
}

root=""
if [ "$(id -u)" = 0 ]; then
    root="env"
elif command -v sudo >/dev/null 2>&1 && sudo -n true >/dev/null 2>&1; then
    root="sudo -n env"
fi
install() { # packages…
    [ -n "$root" ] && command -v apt-get >/dev/null 2>&1 || return 1
    echo "setup: installing $*"
    apt="$root DEBIAN_FRONTEND=noninteractive timeout 300 apt-get -q"
    $apt install -y --no-install-recommends "$@" >/dev/null 2>&1 </dev/null || {
        $apt update >/dev/null 2>&1 </dev/null
        $apt install -y --no-install-recommends "$@" >/dev/null 2>&1 </dev/null
    }
}
three_times() { # command…
    for pause in 2 5 0; do
        timeout 180 "$@" >/dev/null 2>&1 </dev/null && return 0
        sleep "$pause"
    done
    return 1
}
# Says whether a folder holds what this lock file asks for.
is_from() { [ -f "$1/.from" ] && cmp -s "$1/.from" "$2"; }

look
# shellcheck disable=SC2086
[ -z "$missing" ] || { install $missing; look; }
[ -z "$missing" ] || echo "setup: not available:$missing; the tests that need them will be skipped"
[ "$(id -u)" = 0 ] || echo "setup: not root: the power-cut tests will be skipped"

# A browser is large, and has an install of its own: without it only the page's own test is skipped.
look_for_browser
[ -z "$missing" ] || { install chromium; look_for_browser; }
[ -z "$missing" ] || echo "setup: NO BROWSER: chromium could not be installed; the page will NOT be tested"

# Stock Socket.IO clients, pinned by lock files.
clients=tests/interop
if ! is_from $clients/node_modules $clients/package-lock.json; then
    echo "setup: installing $clients/node_modules"
    if three_times npm ci --prefix $clients --no-audit --no-fund --ignore-scripts; then
        cp $clients/package-lock.json $clients/node_modules/.from
    else
        echo "setup: NO JS CLIENTS: npm could not install them; the tests with them will be skipped"
    fi
fi
if ! is_from $clients/.venv $clients/requirements.txt; then
    echo "setup: installing $clients/.venv"
    rm -rf $clients/.venv
    if three_times python3 -m venv $clients/.venv &&
        three_times $clients/.venv/bin/pip install -q --disable-pip-version-check -r $clients/requirements.txt; then
        cp $clients/requirements.txt $clients/.venv/.from
    else
        echo "setup: NO PYTHON CLIENT: pip could not install it; the tests with it will be skipped"
    fi
fi
exit 0
