#!/usr/bin/env bash
# Every curl line of the older proxy's and the older routing service's documents, against a gateway,
# with the answers checked.
#
#     scripts/smoke_http.sh [http://127.0.0.1:9000]
#
# It expects the iris ensemble to be loaded, and leaves nothing running.
set -euo pipefail

base=${1:-http://127.0.0.1:9000}
job=${SMOKE_JOB_ID:-smoke-$$}
passed=0

# check NAME EXPRESSION CURL-ARGUMENTS...: is EXPRESSION (Python, `told` is the answer) true?
check() {
    local name=$1 expression=$2 answer
    shift 2
    answer=$(curl --silent --show-error --fail-with-body --max-time 180 "$@") || {
        printf 'FAILED %s: %s\n' "$name" "$answer" >&2
        exit 1
    }
    python3 -c '
import json, sys
told = json.loads(sys.argv[1])
sys.exit(not eval(sys.argv[2]))
' "$answer" "$expression" || {
        printf 'FAILED %s: %s is not so of %s\n' "$name" "$expression" "$answer" >&2
        exit 1
    }
    printf 'ok     %s\n' "$name"
    passed=$((passed + 1))
}

json=(--header 'Content-Type: application/json')
setosa='{"data": [[5.1, 3.5, 1.4, 0.2]]}'
two='{"data": [[5.1, 3.5, 1.4, 0.2], [6.3, 3.3, 6.0, 2.5]]}'
classes='["setosa", "versicolor", "virginica"]'
one_row="list(told) == $classes and all(abs(sum(each['prediction']) - 1) < 1e-6 for each in told.values())"

# --- The older proxy ---
check 'GET /health' 'told["status"] == "SERVING"' "$base/health"
check 'GET /health/all' "[k for k, v in told.items() if v['status'] == 'SERVING'] == $classes" \
    "$base/health/all"
check 'GET /metadata' "told['class_labels'] == $classes and told['feature_count'] == 4" \
    "$base/metadata"
check 'GET /predict/get/test' "$one_row" "$base/predict/get/test"
check 'GET /predict/post/test' "$one_row" "$base/predict/post/test"
check 'POST /predict/post/test' "$one_row" --request POST "$base/predict/post/test"
check 'POST /predict' "$one_row and told['setosa']['prediction'][0] > 0.9" \
    "${json[@]}" --data "$setosa" "$base/predict"
check 'POST /predict, two rows' \
    'all(len(each["prediction"]) == 2 and len(each["prediction"][0]) == 2 for each in told.values())' \
    "${json[@]}" --data "$two" "$base/predict"
check 'POST /predict/label' \
    'told["prediction"]["label"] == "setosa" and told["prediction"]["proba"] > 0.9' \
    "${json[@]}" --data "$setosa" "$base/predict/label"
check 'POST /predict/label, two rows' \
    '[each["label"] for each in told["prediction"]] == ["setosa", "virginica"]' \
    "${json[@]}" --data "$two" "$base/predict/label"

# --- The older routing service: its five calls in sequence ---
order() {
    printf '{"job_id": "%s", "model": "iris-setosa", "dataset": "iris", ' "$job"
    printf '"operation_type": "%s", "container_id": ""}' "$1"
}
route() {
    check "POST /inference_router/ $1" "$2" "${json[@]}" --data "$(order "$1")" \
        "$base/inference_router/"
}
route DEPLOY_CREATE 'told["state"] == "CREATED"'
route DEPLOY_LOAD 'told["state"] == "LOADED"'
route DEPLOY_UNLOAD 'told["state"] == "CREATED"'
route TERMINATE 'told["state"] == "TERMINATED"'
route TEMP 'told["state"] == "SUCCEEDED" and told["rows_done"] == 150'

printf '%d checks passed\n' "$passed"
