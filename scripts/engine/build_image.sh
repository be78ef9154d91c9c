#!/usr/bin/env bash
# Builds the image of all services, and prints its name on stdout.
#
#     build_image.sh [NAME]
#
# NAME is ${TRILLIUM_IMAGE:-trillium:local} if not given. DOCKER_HOST says which engine; without it,
# the engine that start_engine.sh finds or starts. Layers that did not change are not built again.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
name=${1:-${TRILLIUM_IMAGE:-trillium:local}}

DOCKER_HOST=$("$here/start_engine.sh")
export DOCKER_HOST
base=$("$here/base_image.sh")
cd "$here/../.."

log=$(mktemp)
trap 'rm -f "$log"' EXIT
# What pip in a build may reach is what this machine reaches, so it uses this machine's network.
if ! docker build --network host --build-arg "BASE_IMAGE=$base" --tag "$name" . >"$log" 2>&1; then
    tail --lines=60 "$log" >&2
    echo "image: $name cannot be built; see above" >&2
    exit 1
fi
size=$(docker image inspect --format '{{.Size}}' "$name")
echo "image: $name has $((size / 1000 / 1000)) MB" >&2
echo "$name"
