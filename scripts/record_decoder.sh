#!/usr/bin/env bash
# Measures our own decoder again on a GPU that has the step kernel, for results/: the commands of results/README.md in one.
# Each part takes 3 to 6 minutes on an H200; all of them without names. CARD begins the files' names.
#
#     scripts/record_decoder.sh FOLDER [checks] [small] [steps] [large] [prompts]
set -uEo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3} CARD=${CARD:-h200}
SMALL=shape:qwen2.5-0.5b LARGE=shape:qwen2.5-7b

if [ $# -eq 0 ]; then
    sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
out=$1 && shift && mkdir -p "$out" || exit 1
out=$(cd "$out" && pwd)
[ $# -gt 0 ] || set -- checks small steps large prompts
run() { "$PYTHON" -m bitbench run --budget none --prompts 3 --processes 3 "$@"; }
steps() { "$PYTHON" scripts/decode_steps.py "$@"; }
step=("$PYTHON" scripts/sanitize_step.py)
watched() { # TOOL [OPTIONS] PROGRAM
    echo "=== $1"
    compute-sanitizer --error-exitcode 1 --tool "$@" 2>&1
}

checks() {
    "$PYTHON" -m pytest -q -p no:cacheprovider tests/decode/test_step_cuda.py
    {
        watched memcheck "${step[@]}"
        watched synccheck "${step[@]}"
        watched initcheck --check-api-memory-access no "${step[@]}"
        watched racecheck --kernel-name kns=decode_steps "${step[@]}" --method awq-int4 --context 40
        exit $failed
    } | tee "$out/$CARD-sanitizers.txt" | grep -E '^===|SUMMARY'
}

small() {
    local file=$out/$CARD-fused-qwen2.5-0.5b.jsonl
    run $SMALL -e fused -w p40-n128 -m fp16 -m int8-wo -m awq-int4 -m awq-int4-head8 --out "$file"
    run $SMALL -e fused -w p40-n128-b8 -m fp16 -m awq-int4 --out "$file"
}

steps_() {
    local file=$out/$CARD-decode-steps.jsonl
    steps $SMALL --repeats 5 --method awq-int4 --method fp16 --batch 1 --batch 8 --positions 64 --stamps --out "$file"
    steps $SMALL --repeats 5 --method awq-int4 --method fp16 --batch 2 --batch 4 --positions 64 --out "$file"
    steps $SMALL --repeats 5 --method fp16 --method int8-wo --method awq-int4 --method awq-int4-head8 --positions 256 --out "$file"
    for length in 8000 32000; do
        steps $SMALL --repeats 3 --method fp16 --method awq-int4 --positions 0 --prompt-len $length --output-len 64 \
            --out "$out/$CARD-decode-contexts.jsonl"
    done
}

large() {
    run $LARGE -e fused -w p40-n128 -m fp16 -m awq-int4 --out "$out/$CARD-fused-qwen2.5-7b.jsonl"
    steps $LARGE --repeats 2 --output-len 64 --positions 16 --method awq-int4 --method fp16 --stamps \
        --out "$out/$CARD-decode-steps-7b.jsonl"
}

prompts() {
    run $SMALL --quick -e fused -e transformers -w p512-n16 -m fp16 -m awq-int4 --out "$out/$CARD-ttft.jsonl"
}

failed=0
trap 'failed=1' ERR # the other parts and commands are run all the same
for part in "$@"; do
    case $part in
        steps) steps_ ;;
        checks | small | large | prompts) $part ;;
        *) echo "no part is called $part: checks, small, steps, large, prompts" >&2 && exit 2 ;;
    esac
done
exit $failed
