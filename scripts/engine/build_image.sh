#!/usr/bin/env bash
# Builds the image of all services and the smaller one of predictors and aggregators.
#
#     build_image.sh
#
# Their names are TRILLIUM_IMAGE (trillium:local) and TRILLIUM_SERVING_IMAGE
# (trillium-serving:local). DOCKER_HOST names the engine; without it,
# the engine that start_engine.sh finds or starts. Layers that did not change are not built again.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")

DOCKER_HOST=$("$here/start_engine.sh")
export DOCKER_HOST
base=$("$here/base_image.sh")
cd "$here/../.."

log=$(mktemp)
trap 'rm -f "$log"' EXIT

build() { # TARGET NAME
    # What pip in a build may reach is what this machine reaches, so it uses this machine's network.
    if ! docker build --network host --build-arg "BASE_IMAGE=$base" --target "$1" --tag "$2" . \
        >"$log" 2>&1; then
        tail --lines=60 "$log" >&2
        echo "image: $2 cannot be built; see above" >&2
        exit 1
    fi
    size=$(docker image inspect --format '{{.Size}}' "$2")
    echo "image: $2 has $((size / 1000 / 1000)) MB" >&2
}

build serving "${TRILLIUM_SERVING_IMAGE:-trillium-serving:local}"
build services "${TRILLIUM_IMAGE:-trillium:local}"
