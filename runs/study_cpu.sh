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
end=$(($(date +%s) + $(echo "${2:-3}" | awk '{ printf "%d", $1 * 3600 }')))
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
seeds ${SECOND_SEEDS:-2 4 6 8} >"$out/second.log" 2>&1 &
second=$!
failed() { # LOG: the other job may go on; then the script ends with what the log says
    tail -n 3 "$1" >&2
    echo "error: a run failed, see $1; the same line goes on from there" >&2
    failure=1
}
failure=0
wait "$first" || failed "$out/first.log"
wait "$second" || failed "$out/second.log"
[ "$failure" = 0 ] || exit 1

# how well the models primed with `all` try and check before PPO
for run in "$out"/experiment/all/seed-*; do
    gate="$out/gate/$(basename "$run")"
    once "$gate" evals traces --responses "$run/evaluations/step-00000000-sampled.parquet" --out "$gate"
done

# conditions of which no run is finished are left out, and so are runs that the time did not reach
finished() { # CONDITION…
    for condition in "$@"; do
        ls "$out/experiment/$condition"/seed-*/manifest.json >/dev/null 2>&1 || return 1
    done
}

contrasts=""
for name in $others; do
    case $name in pairs-*) continue ;; esac
    if finished "$name"; then contrasts="$contrasts --contrast $name:linear"; fi
done
if finished pairs-enriched pairs-control; then contrasts="$contrasts --contrast pairs-enriched:pairs-control"; fi
if finished incorrect-all; then contrasts="$contrasts --equivalent incorrect-all:all"; fi
evals compare --experiment "$out/experiment" --contrast all:linear $contrasts --leave-out-unfinished --out "$out/comparison"
evals power --experiment "$out/experiment" --contrast all:linear --leave-out-unfinished
set --
for folder in "$out"/pairs/*/sets; do
    [ ! -e "$folder/manifest.json" ] || set -- "$@" --sets "$folder"
done
evals report --experiment "$out/experiment" --comparison "$out/comparison" "$@" --leave-out-unfinished --out "$out/report.html" \
    --picture "$out/accuracy.svg"
