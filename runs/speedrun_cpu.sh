#!/bin/sh
# A demonstration in a quarter of an hour on two cores: 0.4M parameters, one seed, `all` against `linear`, from nothing to the report. One seed
# shows how the parts fit together, and nothing about the question; runs/study_cpu.sh is the study.
#
#     sh runs/speedrun_cpu.sh [FOLDER]        # the same line goes on where it stopped
set -eu
out=${1:-speedrun}
PPO_STEPS=${PPO_STEPS:-60}
. "$(dirname "$0")/tiny_recipe.sh"

condition() { # KIND
    primed 1 "$1"
    reinforced 1 "$1" "$out/primed/$1/seed-1/model"
}

tasks
base 1 --tiny-size 0.4M
condition all >"$out/all.log" 2>&1 &
beside=$!
condition linear >"$out/linear.log" 2>&1
wait "$beside"
evals report --experiment "$out/experiment" --out "$out/report.html"
