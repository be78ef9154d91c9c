#!/usr/bin/env bash
# Every curl line of the older proxy's and the older routing service's documents, against a gateway,
# with the answers checked.
#
#     scripts/smoke_http.sh [http://127.0.0.1:9000]
#
# It expects the iris ensemble to be loaded, and leaves nothing running. Where the routing service's
# calls need a token, SMOKE_TOKEN has one.
set -euo pipefail

base=${1:-http://127.0.0.1:9000}
job=${SMOKE_JOB_ID:-smoke-$$}
passed=0

# check NAME EXPRESSION CURL-ARGUMENTS...: is EXPRESSION (Python; `answer` is the answer) true?
check() {
    local name=$1 expression=$2 answer
    shift 2
    answer=$(curl --silent --show-error --fail-with-body --max-time 180 "$@") || {
        printf 'FAILED %s: %s\n' "$name" "$answer" >&2
        exit 1
    }
    python3 -c '
import json, struct, sys
answer = json.loads(sys.argv[1])
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
# float32 values with all digits of the float64 that they are.
wide='lambda p: struct.unpack("f", struct.pack("f", p))[0] == p'
one_row="list(answer) == $classes and all(list(each) == ['prediction'] and len(each['prediction']) == 2 \
and ($wide)(each['prediction'][0]) and abs(sum(each['prediction']) - 1) < 1e-6 for each in answer.values())"

# --- The older proxy ---
check 'GET /health' 'answer == {"health": "ok"}' "$base/health"
check 'GET /health/all' "list(answer.items()) == [(label, {'health': 'ok'}) for label in $classes]" \
    "$base/health/all"
check 'GET /metadata' "list(answer) == ['data_type', 'data_structure', 'data_sample', \
'prediction_type', 'prediction_structure', 'prediction_sample'] \
and (answer['data_type'], answer['data_structure']) == ('float32', '(1,4)') \
and answer['data_sample'] == [[5.1, 3.5, 1.4, 0.2]] \
and (answer['prediction_type'], answer['prediction_structure']) == ('float32', '(1,2)') \
and list(answer['prediction_sample']) == ['service_' + label for label in $classes]" \
    "$base/metadata"
check 'GET /predict/get/test' "$one_row" "$base/predict/get/test"
check 'GET /predict/post/test' "$one_row" "$base/predict/post/test"
check 'POST /predict/post/test' "$one_row" --request POST "$base/predict/post/test"
check 'POST /predict' "$one_row and answer['setosa']['prediction'][0] > 0.9" \
    "${json[@]}" --data "$setosa" "$base/predict"
check 'POST /predict, two rows' \
    'all(len(each["prediction"]) == 2 and len(each["prediction"][0]) == 2 for each in answer.values())' \
    "${json[@]}" --data "$two" "$base/predict"
check 'POST /predict/label' \
    'list(answer["prediction"]) == ["proba", "label"] and answer["prediction"]["label"] == "setosa"' \
    "${json[@]}" --data "$setosa" "$base/predict/label"
check 'POST /predict/label, two rows' \
    '[each["label"] for each in answer["prediction"]] == ["setosa", "virginica"]' \
    "${json[@]}" --data "$two" "$base/predict/label"

# --- The older routing service: its five calls in sequence ---
order() {
    printf '{"job_id": "%s", "model": "iris-setosa", "dataset": "iris", ' "$job"
    printf '"operation_type": "%s", "container_id": ""}' "$1"
}
# A header from a file is in no list of processes.
bearer=()
if [ -n "${SMOKE_TOKEN:-}" ]; then
    header=$(mktemp)
    trap 'rm -f "$header"' EXIT
    printf 'Authorization: Bearer %s\n' "$SMOKE_TOKEN" > "$header"
    bearer=(--header "@$header")
fi
route() {
    check "POST /inference_router/ $1" "$2" "${json[@]}" ${bearer[@]+"${bearer[@]}"} \
        --data "$(order "$1")" "$base/inference_router/"
}
route DEPLOY_CREATE 'answer["state"] == "CREATED"'
route DEPLOY_LOAD 'answer["state"] == "LOADED"'
route DEPLOY_UNLOAD 'answer["state"] == "CREATED"'
route TERMINATE 'answer["state"] == "TERMINATED"'
route TEMP 'answer["state"] == "SUCCEEDED" and answer["rows_done"] == 150'

printf '%d checks passed\n' "$passed"
