#!/usr/bin/env bash
# Makes sure that there is a container engine, and prints its address (for DOCKER_HOST) on stdout.
#
#     start_engine.sh [--apart] [DIR] [-- DOCKERD-ARGUMENT...]
#
# An engine that is reachable already (DOCKER_HOST, or the default socket) is used as it is, and
# never stopped by these scripts. Otherwise dockerd is started by hand (on Debian and Ubuntu it is
# installed first, if it is missing), with everything that is its own under DIR, which is
# ${TRILLIUM_ENGINE_DIR:-.engine} if not given. Repeating it is quick and changes nothing.
# stop_engine.sh ends what this started.
#
# With --apart an engine is started whatever there is, in a network namespace of its own: for tests
# that do to an engine what must not be done to one that is in use. Two engines in one namespace
# take the bridge from each other. The namespace outlives the engine, so that one that is started
# again finds its containers; `nsenter --net=DIR/net COMMAND` runs a command in it.
set -euo pipefail

note() { printf 'engine: %s\n' "$*" >&2; }
fail() { note "$*"; exit 1; }

apart=no
[[ ${1-} == --apart ]] && { apart=yes; shift; }
dir=${TRILLIUM_ENGINE_DIR:-.engine}
[[ $# -gt 0 && $1 != -- ]] && { dir=$1; shift; }
[[ ${1-} == -- ]] && shift
arguments=("$@")

# Bounded: an engine that hangs is not one that can be used.
answers() {
    command -v docker >/dev/null &&
        timeout 10 docker --host "$1" version --format '{{.Server.Version}}' 2>/dev/null
}

install_engine() {
    local missing=()
    command -v dockerd >/dev/null || missing+=(docker.io)
    command -v ip >/dev/null || missing+=(iproute2)
    [[ ${#missing[@]} -gt 0 ]] || return 0
    command -v apt-get >/dev/null ||
        fail "there is no ${missing[*]}, and no apt-get to install it: install it, or set DOCKER_HOST"
    note "installing ${missing[*]} ..."
    local policy=/usr/sbin/policy-rc.d made=no
    # The package would start an engine of its own, on the default socket.
    if [[ ! -e $policy ]]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
        made=yes
    fi
    local log status=0
    log=$(mktemp)
    {
        apt-get update --quiet &&
            DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet \
                --no-install-recommends "${missing[@]}"
    } >"$log" 2>&1 </dev/null || status=$?
    [[ $made == yes ]] && rm -f "$policy"
    [[ $status == 0 ]] || cat "$log" >&2
    rm -f "$log"
    [[ $status == 0 ]] || fail "${missing[*]} cannot be installed"
}

last_words() { tail -n 20 "$dir/dockerd.log" >&2 || true; }

# Whether process $1 lives and was started for this folder. A number in an old file may have been
# given to another process since, and one that has ended may not have been reaped.
is_ours() {
    [[ -r /proc/$1/cmdline ]] && tr '\0' '\n' <"/proc/$1/cmdline" | grep --fixed-strings --quiet "$dir/"
}

# A network namespace that lasts, with a loopback interface that is up: it is held by a mount, which
# stop_engine.sh takes away.
make_namespace() {
    local mounted
    mounted=$(awk -v file="$dir/net" '$2 == file' /proc/mounts)
    [[ -z $mounted ]] || return 0
    touch "$dir/net"
    unshare "--net=$dir/net" ip link set lo up
}

start() {
    mkdir -p "$dir"
    local file
    for file in "$dir/dockerd.pid" "$dir/exec/containerd/containerd.pid"; do
        [[ -s $file ]] || continue
        if ! is_ours "$(<"$file")"; then
            # dockerd takes one that was not reaped yet for one that runs.
            rm -f "$file"
        elif [[ $file == */dockerd.pid ]]; then
            fail "dockerd (pid $(<"$file")) runs and does not answer: see $dir/dockerd.log"
        fi
    done
    local within=()
    if [[ $apart == yes ]]; then
        make_namespace
        within=(nsenter "--net=$dir/net")
    fi
    # It restarts with its containers running, as an upgrade does, so that predictions flow
    # meanwhile; for the same reason ports are published by the kernel and not by its children.
    setsid nohup "${within[@]}" dockerd \
        --data-root "$dir/data" \
        --exec-root "$dir/exec" \
        --pidfile "$dir/dockerd.pid" \
        --host "$address" \
        --live-restore \
        --userland-proxy=false \
        "${arguments[@]}" >>"$dir/dockerd.log" 2>&1 </dev/null &
    local pid=$! deadline=$((SECONDS + 60))
    until answers "$address" >/dev/null; do
        kill -0 "$pid" 2>/dev/null || { last_words; fail "dockerd (pid $pid) ended; see above"; }
        [[ $SECONDS -lt $deadline ]] || {
            kill "$pid" || true
            last_words
            fail "dockerd did not answer within 60 s; see above"
        }
        sleep 0.1
    done
    note "started dockerd $(answers "$address") (pid $pid) in $dir"
}

if [[ $apart == no ]]; then
    for address in ${DOCKER_HOST:+"$DOCKER_HOST"} unix:///var/run/docker.sock; do
        if version=$(answers "$address"); then
            note "using the engine $version at $address, which is not ours and is never stopped"
            echo "$address"
            exit 0
        fi
    done
fi

dir=$(realpath --canonicalize-missing "$dir")
address=unix://$dir/docker.sock
if version=$(answers "$address"); then
    note "dockerd $version is running in $dir already"
else
    [[ $EUID == 0 ]] || fail "an engine can be started by root only: use sudo, or set DOCKER_HOST"
    # A socket's path has at most 107 bytes; the longest is containerd's debug socket.
    longest=$dir/exec/containerd/containerd-debug.sock
    [[ ${#longest} -le 107 ]] || fail "the path $dir is too long: name a shorter one"
    install_engine
    start
fi
echo "$address"
