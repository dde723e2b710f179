#!/bin/sh
# The study, small: a tiny model learns plain arithmetic, is primed with one of five sets, and is trained on Countdown with PPO. Many seeds.
#
#     sh runs/study_cpu.sh FOLDER [HOURS]        # the same line goes on where it stopped; nothing starts after HOURS (default 3)
#
# What is asked of it, and how it is judged, stands in docs/PREREG.md. A seed is everything random: the arithmetic, the weights to start
# from, the primed set, PPO. All conditions of a seed share its base model, and their sets are about the same tasks. Two seeds run side by
# side, a core each; `all` and `linear` of every seed come first. 0.6M parameters in the place of 3B: a stand-in.
set -eu
out=${1:?"say where: sh runs/study_cpu.sh FOLDER [HOURS]"}
end=$(($(date +%s) + ${2:-3} * 3600))
others=${OTHERS-incorrect-all backtracking empty random-reward}
export OMP_NUM_THREADS=1

generate() { # FOLDER COMMAND…: commands that only write a table are not repeated; the others go on, or say that they are finished
    [ -e "$1/manifest.json" ] || { shift && "$@"; }
}

base() { # SEED: plain arithmetic into a tiny model
    generate "$out/base/$1" rl arithmetic --seed "$1" --out "$out/base/$1"
    train cpt --data "$out/base/$1/text" --model "$out/base/$1/start" --out "$out/base/$1/model" --seed "$1" --learning-rate 3e-3 \
        --warmup-fraction 0.05 --tokens-per-step 2048 --context-tokens 512 --epochs 10 --max-steps "${BASE_UPDATES:-1500}"
}

primed() { # SEED KIND: the base model after this seed's set of that kind
    set="$out/primed/$2/seed-$1"
    generate "$set" rl prime --kind "$2" --voice terse --template short --tasks "$out/tasks" --seed "$1" --traces-per-task 60 \
        --num-train "${PRIMED_TRACES:-8000}" --num-heldout 100 --max-failures 6 --out "$set"
    train sft --data "$set/train" --model "$out/base/$1/model" --out "$set/model" --seed "$1" --learning-rate 3e-3 \
        --warmup-fraction 0.05 --tokens-per-step 2048 --context-tokens 512 --epochs 100 --max-steps "${PRIMED_UPDATES:-1200}"
}

reinforced() { # SEED CONDITION MODEL [OPTION…]
    ppo="$out/experiment/$2/seed-$1" seed=$1 model=$3
    shift 3
    generate "$ppo" rl ppo --preset tiny --model "$model" --data "$out/tasks" --seed "$seed" --out "$ppo" --layout packed --micro-batch-tokens 4096 \
        --max-response-tokens "${RESPONSE_TOKENS:-192}" \
        --total-steps "${PPO_STEPS:-40}" "$@"
}

condition() { # SEED CONDITION: everything that it needs and has not got
    [ "$(date +%s)" -lt "$end" ] || return 0
    base "$1"
    case $2 in
    random-reward) primed "$1" all && reinforced "$1" "$2" "$out/primed/all/seed-$1/model" --reward random ;;
    *) primed "$1" "$2" && reinforced "$1" "$2" "$out/primed/$2/seed-$1/model" ;;
    esac
}

seeds() { # SEED…: the primary pair of every seed, then the other conditions
    for seed in "$@"; do
        for name in all linear; do condition "$seed" "$name"; done
    done
    for seed in "$@"; do
        for name in $others; do condition "$seed" "$name"; done
    done
}

# 1,298 problems of three numbers, 250 of them kept for the evaluations
generate "$out/tasks" rl tasks --operands 3 --max-number 9 --min-target 1 --max-target 20 --num-train 0 --num-test 250 --seed 7 --out "$out/tasks"
seeds ${FIRST_SEEDS:-1 3 5 7} >"$out/first.log" 2>&1 &
first=$!
seeds ${SECOND_SEEDS:-2 4 6 8} >"$out/second.log" 2>&1
wait "$first"

# conditions that no run has reached are left out
contrasts=""
for name in $others; do
    [ ! -d "$out/experiment/$name" ] || contrasts="$contrasts --contrast $name:linear"
done
[ ! -d "$out/experiment/incorrect-all" ] || contrasts="$contrasts --equivalent incorrect-all:all"
evals compare --experiment "$out/experiment" --contrast all:linear $contrasts --out "$out/comparison"
evals power --experiment "$out/experiment" --contrast all:linear
evals report --experiment "$out/experiment" --comparison "$out/comparison" --out "$out/report.html"
