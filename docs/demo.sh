#!/bin/sh
# `make demo`: a reader goes away, events are emitted, the server is killed with -9; the reader comes back and has missed nothing.
# Drives the real binary on a free port with a data directory of its own. REDELIVER_BIN names another binary.
set -eu
bin=${REDELIVER_BIN:-target/release/redeliver}
dir=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true; rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM

say() { printf '\n\033[1m# %s\033[0m\n' "$*"; sleep "${DEMO_PAUSE:-1}"; }
show() { printf '$ redeliver %s\n' "$*"; "$bin" "$@"; }
serve() { # starts the server and waits for its ready line, which names the port
    : >"$dir/ready"
    "$bin" serve --listen "${1:-127.0.0.1:0}" --data "$dir/data" >"$dir/ready" 2>"$dir/log" &
    server=$!
    until grep -q 'listening on' "$dir/ready"; do
        kill -0 "$server" 2>/dev/null || { cat "$dir/log" >&2; exit 1; }
        sleep 0.05
    done
    REDELIVER_URL=$(sed 's/.* on //' "$dir/ready")
    export REDELIVER_URL
    cat "$dir/ready"
}

say "A server, on a free port"
serve
say "alice follows orders, sees one event, and goes away"
show emit orders "order 1: tea"
show listen orders --as alice --start earliest --count 1
say "While she is away, orders come in"
show emit orders "order 2: coffee"
printf 'order 3: scones\norder 4: jam\n' | show emit orders --lines
say "and the server is killed with -9, and started again"
kill -9 "$server"
wait "$server" 2>/dev/null || true
serve "${REDELIVER_URL#ws://}"
say "alice comes back: what she missed is there, in order, once"
show listen orders --as alice --until-caught-up
say "and nothing of it is given to her again"
show listen orders --as alice --until-caught-up
say "Done. \`make run\` serves for real; \`$bin help\` teaches the rest."
