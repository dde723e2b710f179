#!/bin/sh
# The study itself, as commands: label and rewrite OpenWebMath, 8.3M tokens an arm, continued pretraining, 250 steps of PPO. Written to be
# read and run on a GPU machine; nothing here has been run on one.
#
#     sh runs/study_gpu.sh FOLDER                 # Llama-3.2-3B and Qwen2.5-3B; days on four GPUs
#     SMALL=1 sh runs/study_gpu.sh FOLDER         # SmolLM2-135M on one GPU, from 20,000 documents
#     SETS=FOLDER …                               # the sets of a `curate match` for every seed, in the place of labelling and matching
#     STEP_SECONDS=600 …                          # no command runs longer: it saves and ends (exit code 75), and the same line goes on.
#                                                 # At least 300 with SMALL; 3600 without, where loading and one step of PPO take minutes
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

step() { # COMMAND…: asked to save and end before the time is over, ended by force when it is; then the same line goes on
    if [ -z "${STEP_SECONDS:-}" ]; then
        "$@"
        return
    fi
    code=0
    timeout --signal TERM --kill-after "$saving" "$((STEP_SECONDS - saving))" "$@" || code=$?
    case $code in
    75 | 124 | 137)
        echo "stopped within $STEP_SECONDS s; run the same line again" >&2
        exit 75
        ;;
    esac
    return "$code"
}

if [ -n "${SMALL:-}" ]; then
    models=${MODELS:-HuggingFaceTB/SmolLM2-135M} sample=20000 budget=200000 habits=any tokenizer=HuggingFaceTB/SmolLM2-135M cpt="" processes=1
    saving=120 # seconds kept for the step under way and the checkpoint
    ppo="--max-response-tokens 256 --total-steps ${PPO_STEPS:-100} --prompts-per-step 64 --eval-tasks 256 --actor-learning-rate 1e-5 --save-every-steps 5"
    game="--operands 3 --operands 4 --max-number 25 --min-target 10 --max-target 25"
else
    models=${MODELS:-meta-llama/Llama-3.2-3B Qwen/Qwen2.5-3B} sample=${SAMPLE:-1000000} budget=8300000 habits=backtracking tokenizer=meta-llama/Llama-3.2-3B
    saving=900
    cpt="--optimizer adamw-8bit --gradient-checkpointing --save-every-steps 10"
    ppo="--sampler vllm --gradient-checkpointing --total-steps ${PPO_STEPS:-250}"
    game="--operands 3 --operands 4"
fi
if [ "${STEP_SECONDS:-3600}" -le $((saving * 2)) ]; then
    echo "error: STEP_SECONDS=$STEP_SECONDS is too short: $saving s of it are kept for saving" >&2
    exit 2
fi

# tasks first, so that no arm contains one
[ -e "$out/tasks/manifest.json" ] || rl tasks $game --num-train 32768 --num-test 1024 --seed 7 --out "$out/tasks"

# every selected document twice, with its behaviors and without
if [ -z "${SETS:-}" ]; then
    curate plan --dataset openwebmath --sample "$sample" --quantization fp8 --selected-share 0.06
    printf '[classify]\nquantization = "fp8"\n[rewrite]\nquantization = "fp8"\n[verify]\nquantization = "fp8"\n[match]\ncountdown_tasks = ["%s"]\n' \
        "$out/tasks/tasks.parquet" >"$out/stages.toml" # 32B in bf16 leaves little room for the cache on 80 GB
    step curate run --dataset openwebmath --sample "$sample" --budget-tokens "$budget" --tokenizer "$tokenizer" --habits $habits \
        --arms pairs --stages "$out/stages.toml" --yes --out "$out/curation"
fi

matched() { # SEED: sets $sets of its own, since a paired seed is all that is random, the draw of the documents included
    sets=${SETS:-$out/sets/seed-$1}
    if [ -n "${SETS:-}" ] && [ ! -e "$SETS/manifest.json" ]; then echo "error: no sets in $SETS; \`curate match\` makes them" >&2 && exit 1; fi
    [ -e "$sets/manifest.json" ] || step curate match --qa "$out/curation/qa" --verified "$out/curation/verified" --tokenizer "$tokenizer" \
        --budget-tokens "$budget" --countdown-tasks "$out/tasks/tasks.parquet" --seed "$1" --out "$sets"
}

launch() { # PROGRAM ARGUMENT…: one process, or several with sharded weights
    if [ "$processes" = 1 ]; then
        step "$@"
    else
        program=$1 && shift
        step accelerate launch --num_processes "$processes" --use_fsdp --fsdp_version 2 -m "$program.main" "$@"
    fi
}

reinforced() { # FOLDER ARGUMENT…: PPO. A finished run stays, and so does one that gave up because its gradients were not finite
    folder=$1
    shift
    if [ -e "$folder/manifest.json" ] || [ -e "$folder/stopped.json" ]; then return; fi
    launch rl ppo --data "$out/tasks" --out "$folder" "$@" $ppo || [ -e "$folder/stopped.json" ]
}

for model in $models; do
    short=$(basename "$model")
    matched "${seeds%% *}"
    train plan --model "$model" --data "$sets/enriched" --recipe four-habits --num-gpus "$processes" $cpt
    for seed in $seeds; do
        matched "$seed"
        for arm in enriched control; do
            launch train cpt --model "$model" --data "$sets/$arm" --recipe four-habits --seed "$seed" --out "$out/$short/cpt/$arm/seed-$seed" $cpt
            reinforced "$out/$short/experiment/$arm/seed-$seed" --model "$out/$short/cpt/$arm/seed-$seed" --seed "$seed"
        done
        reinforced "$out/$short/experiment/base/seed-$seed" --model "$model" --seed "$seed"
    done
    evals compare --experiment "$out/$short/experiment" --contrast enriched:control --contrast enriched:base --out "$out/$short/comparison"
    evals report --experiment "$out/$short/experiment" --comparison "$out/$short/comparison" --sets "$sets" --out "$out/$short/report.html"
done
