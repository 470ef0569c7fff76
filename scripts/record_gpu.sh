#!/usr/bin/env bash
# Measures again on a GPU what results/ has of one: the commands of results/README.md. CARD begins the files' names.
# Of our own decoder, where the step kernel runs: checks, small, steps, large, prompts, and earlier, as earlier GPUs get it,
# for which nvcc is needed; tune is for scripts/ship_tuning.py. Of engines beside one another, where bitsandbytes and
# gptqmodel are: causes, tokens, engines, engines_large, contexts. Each part takes 1 to 9 minutes on an H200, engines 15.
#
#     scripts/record_gpu.sh FOLDER PART...
set -uEo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3} CARD=${CARD:-h200}
PARTS="checks small steps large prompts earlier tune causes tokens engines engines_large contexts"
SMALL=shape:qwen2.5-0.5b LARGE=shape:qwen2.5-7b

if [ $# -lt 2 ]; then
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
out=$1 && shift && mkdir -p "$out" || exit 1
out=$(cd "$out" && pwd)
run() { "$PYTHON" -m bitbench run --budget none --prompts 3 --processes 3 "$@"; }
steps() { "$PYTHON" scripts/decode_steps.py "$@"; }
step=("$PYTHON" scripts/sanitize_step.py)
EARLIER="--gpu 8.0:108:163" # an A100
watched() { # TOOL [OPTIONS] PROGRAM
    echo "=== $1"
    compute-sanitizer --error-exitcode 1 --tool "$@" 2>&1
}

part_checks() { # nothing is timed here, so all of it runs at once
    local folder job jobs=()
    folder=$(mktemp -d)
    beside() { # NAME COMMAND
        "${@:2}" >"$folder/$1" 2>&1 &
        jobs+=($!)
    }
    beside pytest "$PYTHON" -m pytest -q -n 6 -p no:cacheprovider tests/decode/test_step_cuda.py
    beside memcheck watched memcheck "${step[@]}"
    beside synccheck watched synccheck "${step[@]}"
    beside initcheck watched initcheck --check-api-memory-access no "${step[@]}"
    beside racecheck watched racecheck --kernel-name kns=decode_steps "${step[@]}" --method awq-int4 --context 40
    beside earlier watched memcheck "${step[@]}" $EARLIER
    beside earlier_races watched racecheck --kernel-name kns=decode_steps "${step[@]}" --context 40 $EARLIER \
        --every-lane
    for job in "${jobs[@]}"; do wait "$job" || failed=1; done
    tail -20 "$folder/pytest"
    cat "$folder"/{memcheck,synccheck,initcheck,racecheck} >"$out/$CARD-sanitizers.txt"
    { echo "as made for a GPU of compute capability 8.0:" && cat "$folder"/{earlier,earlier_races}; } >>"$out/$CARD-sanitizers.txt"
    grep -E '^=== |SUMMARY' "$out/$CARD-sanitizers.txt"
    rm -r "$folder"
}

part_small() {
    local file=$out/$CARD-fused-qwen2.5-0.5b.jsonl
    run $SMALL -e fused -w p40-n128 -m fp16 -m int8-wo -m awq-int4 -m awq-int4-head8 --out "$file"
    run $SMALL -e fused -w p40-n128-b8 -m fp16 -m awq-int4 --out "$file"
}

part_steps() {
    local file=$out/$CARD-decode-steps.jsonl
    steps $SMALL --repeats 5 --method awq-int4 --method fp16 --batch 1 --batch 8 --positions 64 --stamps --out "$file"
    steps $SMALL --repeats 5 --method awq-int4 --method fp16 --batch 2 --batch 4 --positions 64 --out "$file"
    steps $SMALL --repeats 5 --method fp16 --method int8-wo --method awq-int4 --method awq-int4-head8 --positions 256 --out "$file"
    for length in 8000 32000; do
        steps $SMALL --repeats 3 --method fp16 --method awq-int4 --positions 0 --prompt-len $length --output-len 64 \
            --out "$out/$CARD-decode-contexts.jsonl"
    done
}

part_large() {
    run $LARGE -e fused -w p40-n128 -m fp16 -m awq-int4 --out "$out/$CARD-fused-qwen2.5-7b.jsonl"
    steps $LARGE --repeats 2 --output-len 64 --positions 16 --method awq-int4 --method fp16 --stamps \
        --out "$out/$CARD-decode-steps-7b.jsonl"
}

part_prompts() {
    run $SMALL --quick -e fused -e transformers -w p512-n16 -m fp16 -m awq-int4 --out "$out/$CARD-ttft.jsonl"
}

part_earlier() { # an A100's, an RTX 4090's, an RTX 3090's and an L4's multiprocessors and shared memory, on this GPU
    local file=$out/$CARD-earlier-gpus.jsonl methods="--method fp16 --method int8-wo --method awq-int4 --method awq-int4-head8"
    steps $SMALL --repeats 5 $methods --positions 64 $EARLIER --gpu 8.9:128:99 --gpu 8.6:82:99 --gpu 8.9:58:99 --out "$file"
    steps $SMALL --repeats 5 --method fp16 --method awq-int4 --positions 64 --batch 4 $EARLIER --gpu 8.9:128:99 --out "$file"
    "$PYTHON" scripts/triton_steps.py $SMALL --repeats 5 $methods --positions 0 --out "$out/$CARD-triton-steps.jsonl"
    "$PYTHON" scripts/triton_steps.py $SMALL --repeats 5 --method fp16 --method awq-int4 --positions 0 --batch 4 \
        --out "$out/$CARD-triton-steps.jsonl"
}

part_tune() { # of the Triton kernels, which decode where the step kernel does not
    "$PYTHON" -m bitbench tune $SMALL -m fp16 -m awq-int4 -m int8-wo -m fp8-wo --batch-size 8 --batch-size 1 |
        tee "$out/$CARD-tune.txt"
    cp "$("$PYTHON" -c 'from bitbench.decode import tuning; print(tuning.file())')" "$out/"
}

LIBRARIES="-m fp16 -m bnb-nf4 -m bnb-int8-t0 -m awq-int4:marlin"

part_causes() { # each verdict reached by work made to have that cause; what engines do on a GPU
    "$PYTHON" -m pytest -vv -p no:cacheprovider --durations=0 tests/explain/test_causes.py tests/engines \
        tests/measure/test_bandwidth.py tests/methods/test_awq_layout.py >"$out/$CARD-engine-tests.txt" 2>&1
    grep -E 'test_causes|FAILED|passed|failed' "$out/$CARD-engine-tests.txt"
}

part_tokens() {
    "$PYTHON" scripts/same_tokens.py $SMALL --engine graphed --engine stepped --device cuda:0 --jobs 3 \
        ${LIBRARIES//-m /--method } --method bf16 --method awq-int4:gemm --out "$out/$CARD-same-tokens-graphed.json"
}

part_engines() {
    local file=$out/$CARD-engines-qwen2.5-0.5b.jsonl
    run $SMALL -w p40-n128 --quick --resume -e graphed -e transformers $LIBRARIES --out "$file"
    run $SMALL -w p40-n128 --quick --resume -e fused -m fp16 -m int8-wo -m awq-int4 -m awq-int4-head8 --out "$file"
    run $SMALL -w p40-n128 --quick --resume -e compiled -m fp16 --out "$file"
}

part_engines_large() {
    run $LARGE -w p40-n128 --quick --processes 1 -e graphed -e transformers $LIBRARIES \
        --out "$out/$CARD-engines-qwen2.5-7b.jsonl"
}

part_contexts() {
    for workload in p128-n32 p4000-n32 p32000-n32; do
        run $SMALL -w $workload --quick --prompts 2 --processes 1 -e transformers -e graphed -m fp16 \
            --out "$out/$CARD-experiments.jsonl"
    done
    "$PYTHON" scripts/graph_gaps.py --out "$out/$CARD-graph-gaps.jsonl"
}

failed=0
trap 'failed=1' ERR # the other parts and commands are run all the same
for part in "$@"; do
    case " $PARTS " in
        *" $part "*) "part_$part" ;;
        *) echo "no part is called $part: ${PARTS// /, }" >&2 && exit 2 ;;
    esac
done
exit $failed
