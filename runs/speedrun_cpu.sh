#!/bin/sh
# A demonstration in under an hour on two cores: 0.4M parameters, one seed, `all` against `linear`, from nothing to the report. One seed
# shows how the parts fit together, and nothing about the question; runs/study_cpu.sh is the study.
#
#     sh runs/speedrun_cpu.sh [FOLDER]        # the same line goes on where it stopped
set -eu
out=${1:-speedrun}
export OMP_NUM_THREADS=1

[ -e "$out/tasks/manifest.json" ] ||
    rl tasks --operands 3 --max-number 9 --min-target 1 --max-target 20 --num-train 0 --num-test 250 --seed 7 --out "$out/tasks"
[ -e "$out/base/manifest.json" ] || rl arithmetic --tiny-size 0.4M --out "$out/base"
train cpt --data "$out/base/text" --model "$out/base/start" --out "$out/base/model" --learning-rate 3e-3 --warmup-fraction 0.05 \
    --tokens-per-step 2048 --context-tokens 512 --epochs 10 --max-steps "${BASE_UPDATES:-1500}"

condition() { # KIND
    set="$out/primed/$1"
    [ -e "$set/manifest.json" ] || rl prime --kind "$1" --voice terse --template short --tasks "$out/tasks" --traces-per-task 60 \
        --num-train "${PRIMED_TRACES:-8000}" --num-heldout 100 --max-failures 6 --out "$set"
    train sft --data "$set/train" --model "$out/base/model" --out "$set/model" --learning-rate 3e-3 --warmup-fraction 0.05 \
        --tokens-per-step 2048 --context-tokens 512 --epochs 100 --max-steps "${PRIMED_UPDATES:-1200}"
    [ -e "$out/experiment/$1/seed-1/manifest.json" ] || rl ppo --preset tiny --model "$set/model" --data "$out/tasks" --out "$out/experiment/$1/seed-1" --seed 1 --layout packed \
        --micro-batch-tokens 4096 --max-response-tokens "${RESPONSE_TOKENS:-192}" --total-steps "${PPO_STEPS:-60}"
}

condition all >"$out/all.log" 2>&1 &
beside=$!
condition linear >"$out/linear.log" 2>&1
wait "$beside"
evals report --experiment "$out/experiment" --out "$out/report.html"
