#!/usr/bin/env bash
# Makes sure that the engine has a base image for the Dockerfile, and prints its name on stdout.
#
#     base_image.sh
#
# The Dockerfile's own default is used if it is there or can be pulled. Otherwise one is made of
# this machine's distribution (Debian 12, Ubuntu 24.04 or newer) from the mirror that apt uses, with
# the machine's CA certificates and pip settings, so that `pip install` works in builds as it does
# here. What that makes is for this machine's tests, not for publishing. DOCKER_HOST names the
# engine. Takes a second when nothing is left to do.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

made=trillium-base:local

note() { printf 'base image: %s\n' "$*" >&2; }

# The settings of pip that mean the same inside a build: whence packages come, and how patiently.
pip_settings() {
    python3 -m pip config list 2>/dev/null | python3 -c '
import ast, sys
KEPT = ("index-url", "extra-index-url", "trusted-host", "default-timeout", "timeout", "retries")
settings = {"cert": "/etc/ssl/certs/ca-certificates.crt"}
for line in sys.stdin:
    name, _, text = line.strip().partition("=")
    key = name.rpartition(".")[2]
    value = ast.literal_eval(text) if text else ""
    remote = " ".join(word for word in value.split() if not word.startswith(("file:", "/")))
    if key in KEPT and remote:
        settings[key] = remote
print("[global]", *(f"{key} = {value}" for key, value in settings.items()), sep="\n")
'
}

mirror_of() {
    apt-get indextargets --format '$(SITE)' "Codename: $1" 'Component: main' | head --lines=1
}

make_image() (
    root=$(mktemp -d)
    trap 'rm -rf "$root"' EXIT
    if ! command -v debootstrap >/dev/null; then
        apt-get update --quiet >&2
        DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends \
            debootstrap >&2 </dev/null
    fi
    suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
    mirror=$(mirror_of "$suite")
    [[ -n $mirror ]] || { note "apt knows no mirror of $suite"; exit 1; }
    # mktemp's folder is private, and becomes the image's root, which everyone must read.
    chmod 755 "$root"
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates \
        "$suite" "$root" "$mirror" >"$root.log" 2>&1 || { tail "$root.log" >&2; exit 1; }
    rm -rf "$root.log" "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/* \
        "$root"/usr/share/{doc,info,locale,man}/*
    cp --dereference /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
    pip_settings >"$root/etc/pip.conf"
    tar --create --directory "$root" --numeric-owner --exclude=./dev/* . |
        docker import --change 'CMD ["python3"]' - "$made" >/dev/null
)

official=$(sed -n 's/^ARG BASE_IMAGE=//p' Dockerfile)
if docker image inspect "$official" >/dev/null 2>&1; then
    echo "$official"
elif docker image inspect "$made" >/dev/null 2>&1; then
    note "using $made, made before"
    echo "$made"
elif timeout 120 docker pull --quiet "$official" >&2; then
    echo "$official"
else
    note "$official cannot be pulled: making $made instead ..."
    make_image
    echo "$made"
fi
