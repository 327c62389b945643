#!/usr/bin/env bash
# Installs what the tests against Redis need, where that is allowed and missing, and prints what there is then.
#
#     scripts/redis-tools.sh [FOLDER]      FOLDER: redis-tools in the target folder, where the tests look
#
# Needs no tool to be there and fails for none: a test that misses one says so and is skipped. The package manager is used
# only by root (or with sudo that asks for no password). No service is started: the package redis-tools holds the server
# too, under another name, and the link with the right name is made here.
set -uo pipefail
cd "$(dirname "$0")/.."

target="${CARGO_TARGET_DIR:-target}"
folder="${1:-$target/redis-tools}"
patience=180

has() { command -v "$1" >/dev/null 2>&1; }
say() { printf 'redis-tools: %s\n' "$1"; }

as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo -n)

may_install() {
    has apt-get && { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }
}

install() {
    may_install || { say "cannot install $*: no apt-get, or not allowed"; return 1; }
    local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive timeout "$patience" apt-get -qq -o DPkg::Lock::Timeout=60)
    "${apt[@]}" install -y --no-install-recommends "$@" >/dev/null 2>&1 ||
        { "${apt[@]}" update >/dev/null 2>&1 && "${apt[@]}" install -y --no-install-recommends "$@" >/dev/null 2>&1; } ||
        { say "installing $* failed"; return 1; }
}

mkdir -p "$folder/bin"

has redis-cli && has redis-benchmark || install redis-tools
if ! has redis-server && has redis-check-rdb; then
    ln -sf "$(command -v redis-check-rdb)" "$folder/bin/redis-server"
fi

if [ ! -x "$folder/python/bin/python" ] || ! "$folder/python/bin/python" -c 'import redis' 2>/dev/null; then
    if has python3; then
        python3 -m venv "$folder/python" >/dev/null 2>&1 ||
            { rm -rf "$folder/python" && install python3-venv && python3 -m venv "$folder/python" >/dev/null 2>&1; }
        [ -x "$folder/python/bin/pip" ] &&
            timeout "$patience" "$folder/python/bin/pip" install --quiet --disable-pip-version-check 'redis>=6,<9' 2>/dev/null
    fi
fi

export PATH="$folder/bin:$PATH"
for tool in redis-server redis-cli redis-benchmark; do
    if has "$tool"; then
        say "$tool: $("$tool" --version 2>/dev/null | head -n 1)"
    else
        say "$tool: missing; the tests that need it will be skipped"
    fi
done
if version=$("$folder/python/bin/python" -c 'import redis; print(redis.__version__)' 2>/dev/null); then
    say "redis-py: $version"
else
    say "redis-py: missing; the tests that need it will be skipped"
fi
has valkey-server && say "valkey-server: $(valkey-server --version)"
exit 0
