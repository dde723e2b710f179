#!/bin/sh
# The study itself, as commands: label and rewrite OpenWebMath, 8.3M tokens an arm, continued pretraining, 250 steps of PPO. Written to be
# read and run on a GPU machine; nothing here has been run on one.
#
#     sh runs/study_gpu.sh FOLDER                 # Llama-3.2-3B and Qwen2.5-3B; days on four GPUs
#     SMALL=1 sh runs/study_gpu.sh FOLDER         # SmolLM2-135M on one GPU, with the sets in $SETS, or from 20,000 documents
#     STEP_SECONDS=600 …                          # every command ends after so long with all saved (exit code 75); the same line goes on
#
# What it costs, in hours of one H100, by the plans (arithmetic, not measured; `curate plan` and `train plan` below print them for your data):
#   labels    a million documents (of 4,350 characters): 38 (28 to 99) with fp8; rewriting and checking 6 % of them 32 (27 to 73). The
#             published set came from 777,000; where a habit stands in 2 % of the documents, 8.3M tokens an arm need more (SAMPLE=…)
#   cpt       8.3M tokens: 7 minutes a model and arm (5 to 12) at 40 % of the peak; 50 GB with adamw-8bit and gradient checkpointing,
#             110 GB without them
#   ppo       250 steps of 1,024 responses of 400 tokens: 2.4e16 FLOP a step, 6 hours at 400 TFLOP/s; take 12 to 18. Actor, critic and
#             reference with float32 moments do not fit one GPU of 80 GB: PROCESSES=4
# So a seed (two models; enriched, control, base) takes about 70 to 110, and six seeds, the least for a claim, 430 to 650.
set -eu
out=${1:?"say where: sh runs/study_gpu.sh FOLDER"}
seeds=${SEEDS:-1 2 3 4 5 6}
processes=${PROCESSES:-4}

step() { # COMMAND…: with a limit of time when there is one; 75 says that everything is saved and the same line goes on
    if [ -n "${STEP_SECONDS:-}" ]; then timeout --signal TERM --kill-after 120 "$STEP_SECONDS" "$@" || stopped $?; else "$@"; fi
}

stopped() { # CODE: timeout says 124 however the command ended
    case $1 in 75 | 124) echo "stopped after $STEP_SECONDS s; run the same line again" >&2 && exit 75 ;; *) exit "$1" ;; esac
}

if [ -n "${SMALL:-}" ]; then
    models=${MODELS:-HuggingFaceTB/SmolLM2-135M} sample=20000 budget=200000 habits=any tokenizer=HuggingFaceTB/SmolLM2-135M cpt="" processes=1
    ppo="--max-response-tokens 256 --total-steps ${PPO_STEPS:-100} --prompts-per-step 64 --eval-tasks 256 --actor-learning-rate 1e-5 --save-every-steps 5"
    game="--operands 3 --operands 4 --max-number 25 --min-target 10 --max-target 25"
else
    models=${MODELS:-meta-llama/Llama-3.2-3B Qwen/Qwen2.5-3B} sample=${SAMPLE:-1000000} budget=8300000 habits=backtracking tokenizer=meta-llama/Llama-3.2-3B
    cpt="--optimizer adamw-8bit --gradient-checkpointing --save-every-steps 10"
    ppo="--sampler vllm --gradient-checkpointing --total-steps ${PPO_STEPS:-250}"
    game="--operands 3 --operands 4"
fi

# tasks first, so that no arm contains one
[ -e "$out/tasks/manifest.json" ] || rl tasks $game --num-train 32768 --num-test 1024 --seed 7 --out "$out/tasks"

# the sets: every selected document twice, with its behaviors and without
sets=${SETS:-$out/curation/sets}
if [ -z "${SETS:-}" ]; then
    curate plan --dataset openwebmath --sample "$sample" --quantization fp8 --selected-share 0.06
    printf '[classify]\nquantization = "fp8"\n[rewrite]\nquantization = "fp8"\n[verify]\nquantization = "fp8"\n[match]\ncountdown_tasks = ["%s"]\n' \
        "$out/tasks/tasks.parquet" >"$out/stages.toml" # 32B in bf16 leaves little room for the cache on 80 GB
    step curate run --dataset openwebmath --sample "$sample" --budget-tokens "$budget" --tokenizer "$tokenizer" --habits $habits \
        --arms pairs --stages "$out/stages.toml" --yes --out "$out/curation"
fi

launch() { # PROGRAM ARGUMENT…: one process, or several with sharded weights
    if [ "$processes" = 1 ]; then
        step "$@"
    else
        program=$1 && shift
        step accelerate launch --num_processes "$processes" --use_fsdp --fsdp_version 2 -m "$program.main" "$@"
    fi
}

for model in $models; do
    short=$(basename "$model")
    train plan --model "$model" --data "$sets/enriched" --recipe four-habits --num-gpus "$processes" $cpt
    for seed in $seeds; do
        for arm in enriched control; do
            launch train cpt --model "$model" --data "$sets/$arm" --recipe four-habits --seed "$seed" --out "$out/$short/cpt/$arm/seed-$seed" $cpt
            launch rl ppo --model "$out/$short/cpt/$arm/seed-$seed" --data "$out/tasks" --seed "$seed" --out "$out/$short/experiment/$arm/seed-$seed" $ppo
        done
        launch rl ppo --model "$model" --data "$out/tasks" --seed "$seed" --out "$out/$short/experiment/base/seed-$seed" $ppo
    done
    evals compare --experiment "$out/$short/experiment" --contrast enriched:control --contrast enriched:base --out "$out/$short/comparison"
    evals report --experiment "$out/$short/experiment" --comparison "$out/$short/comparison" --sets "$sets" --out "$out/$short/report.html"
done
