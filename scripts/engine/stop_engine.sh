#!/usr/bin/env bash
# Ends the engine that start_engine.sh started in DIR, and all of its containers; no other one.
#
#     stop_engine.sh [--purge] [DIR]
#
# DIR is ${TRILLIUM_ENGINE_DIR:-.engine} if not given. Images stay, unless --purge is given: then
# everything under DIR is deleted. Where nothing runs, nothing happens.
set -euo pipefail

note() { printf 'engine: %s\n' "$*" >&2; }

purge=no
[[ ${1-} == --purge ]] && { purge=yes; shift; }
dir=$(realpath --canonicalize-missing "${1:-${TRILLIUM_ENGINE_DIR:-.engine}}")

# Whether process $1 is one that was started for this folder: a number in an old file may have
# been given to another process since.
is_ours() {
    [[ -r /proc/$1/cmdline ]] && tr '\0' '\n' <"/proc/$1/cmdline" | grep --fixed-strings --quiet "$dir/"
}

# Ends process $1: SIGTERM, then SIGKILL after $2 seconds.
end() {
    local deadline=$((SECONDS + $2))
    is_ours "$1" || return 0
    kill "$1" 2>/dev/null || return 0
    # A stopped process takes no other signal.
    kill -CONT "$1" 2>/dev/null || return 0
    while is_ours "$1"; do
        [[ $SECONDS -lt $deadline ]] || kill -KILL "$1" 2>/dev/null || return 0
        sleep 0.1
    done
}

# Live restore would leave the containers running.
remove_containers() {
    local engine=(timeout 60 docker --host "unix://$dir/docker.sock") ids
    ids=$("${engine[@]}" ps --all --quiet 2>/dev/null) || return 0
    [[ -z $ids ]] || "${engine[@]}" rm --force --volumes $ids >/dev/null || true
}

# The processes of this folder's containers, whose ids are in the names of their cgroups.
container_pids() {
    local ids
    ids=$(ls "$dir/data/containers" 2>/dev/null) || return 0
    [[ -n $ids ]] || return 0
    # A process may end while it is looked at.
    { grep --files-with-matches --no-messages --fixed-strings --regexp="$ids" /proc/[0-9]*/cgroup ||
        true; } | cut --delimiter=/ --fields=3
}

# Containers outlive an engine that was killed, and the shims that look after them.
end_containers() {
    local deadline=$((SECONDS + 10)) pids
    while pids=$(container_pids); [[ -n $pids && $SECONDS -lt $deadline ]]; do
        kill -KILL $pids 2>/dev/null || true
        sleep 0.1
    done
}

# Shims do so, too.
end_shims() {
    local entry
    for entry in /proc/[0-9]*; do
        [[ $(readlink "$entry/exe" 2>/dev/null) == *containerd-shim* ]] && end "${entry#/proc/}" 5
    done
    return 0
}

if [[ -s $dir/dockerd.pid ]] && is_ours "$(<"$dir/dockerd.pid")"; then
    pid=$(<"$dir/dockerd.pid")
    kill -CONT "$pid"
    remove_containers
    end "$pid" 30
    note "dockerd (pid $pid) has ended"
fi
containerd=$dir/exec/containerd/containerd.pid
[[ -s $containerd ]] && end "$(<"$containerd")" 10
end_containers
end_shims

# What a killed engine left mounted.
if [[ -d $dir ]]; then
    awk -v dir="$dir/" 'index($2, dir) == 1 { print $2 }' /proc/mounts | sort --reverse |
        xargs --no-run-if-empty --max-args=1 umount --lazy
    [[ $purge == no ]] || rm -rf "$dir"
fi
