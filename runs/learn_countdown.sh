#!/bin/sh
# PPO on a CPU, end to end: tasks, a warm start of 0.6M parameters, three seeds of PPO, and what each gained on unseen tasks.
#
#     sh runs/learn_countdown.sh [FOLDER]        # the same line goes on after an interruption
set -eu
out=${1:-learn_countdown}

# 1,298 problems of three numbers, 250 of them kept for the evaluations
rl tasks --operands 3 --max-number 9 --min-target 1 --max-target 20 --num-train 0 --num-test 250 --seed 7 \
    --out "$out/tasks"

# honest tries with right checks that give up early, and a model that has learnt them
rl warmstart --tasks "$out/tasks" --out "$out/traces"
train sft --data "$out/traces/primed" --model "$out/traces/start" --out "$out/warm" \
    --learning-rate 3e-3 --warmup-fraction 0.05 --tokens-per-step 2048 --context-tokens 512 --max-steps 1200

for seed in 1 2 3; do
    rl ppo --preset tiny --model "$out/warm" --data "$out/tasks" --seed "$seed" --out "$out/seed-$seed" \
        --layout packed --micro-batch-tokens 4096
done
python bench/learning.py "$out/seed-1" "$out/seed-2" "$out/seed-3" --curve
