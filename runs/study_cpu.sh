#!/bin/sh
# The study, small: a tiny model learns plain arithmetic, is primed with one of five sets, or goes on pretraining on one of two matched
# ones, and is trained on Countdown with PPO. Many seeds.
#
#     sh runs/study_cpu.sh FOLDER [HOURS]        # the same line goes on where it stopped; nothing starts after HOURS (default 3)
#
# What is asked of it, and how it is judged, stands in docs/PREREG.md. A seed is everything random: the arithmetic, the weights to start
# from, the primed set, PPO. All conditions of a seed share its base model, and their sets are about the same tasks. Two seeds run side by
# side, a core each; `all` and `linear` of every seed come first. 0.6M parameters in the place of 3B: a stand-in.
set -eu
out=${1:?"say where: sh runs/study_cpu.sh FOLDER [HOURS]"}
end=$(($(date +%s) + ${2:-3} * 3600))
others=${OTHERS-pairs-enriched pairs-control incorrect-all backtracking empty random-reward}
. "$(dirname "$0")/tiny_recipe.sh"

condition() { # SEED CONDITION: everything that it needs and has not got
    [ "$(date +%s)" -lt "$end" ] || return 0
    base "$1"
    case $2 in
    random-reward)
        primed "$1" all
        reinforced "$1" "$2" "$out/primed/all/seed-$1/model" --reward random
        ;;
    pairs-*) # the pretraining arm: one set of `curate match` in the place of the primed one
        primed "$1" all
        primed "$1" linear
        paired "$1"
        reinforced "$1" "$2" "$out/pairs/$1/${2#pairs-}/model" --template set
        ;;
    *)
        primed "$1" "$2"
        reinforced "$1" "$2" "$out/primed/$2/seed-$1/model"
        ;;
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

tasks
seeds ${FIRST_SEEDS:-1 3 5 7} >"$out/first.log" 2>&1 &
first=$!
seeds ${SECOND_SEEDS:-2 4 6 8} >"$out/second.log" 2>&1
wait "$first"

# conditions that no run has reached are left out
contrasts=""
for name in $others; do
    case $name in pairs-*) continue ;; esac
    [ ! -d "$out/experiment/$name" ] || contrasts="$contrasts --contrast $name:linear"
done
[ ! -d "$out/experiment/pairs-enriched" ] || [ ! -d "$out/experiment/pairs-control" ] || contrasts="$contrasts --contrast pairs-enriched:pairs-control"
[ ! -d "$out/experiment/incorrect-all" ] || contrasts="$contrasts --equivalent incorrect-all:all"
evals compare --experiment "$out/experiment" --contrast all:linear $contrasts --out "$out/comparison"
evals power --experiment "$out/experiment" --contrast all:linear
evals report --experiment "$out/experiment" --comparison "$out/comparison" --out "$out/report.html"
