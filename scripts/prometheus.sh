#!/usr/bin/env bash
# Makes sure that there are Prometheus and promtool, from the distribution's packages (Debian 12,
# Ubuntu 24.04 or newer), for the tests that scrape with the real one. Starts nothing.
set -euo pipefail
exec </dev/null

command -v prometheus >/dev/null && command -v promtool >/dev/null && exit
command -v apt-get >/dev/null || {
    echo "there is no prometheus, and no apt-get to install it: install it" >&2
    exit 1
}
policy=/usr/sbin/policy-rc.d
# The package would start a server of its own.
if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
fi
apt-get update --quiet >&2
DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends prometheus >&2
