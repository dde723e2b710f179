# One recipe for the runs with tiny models; read by speedrun_cpu.sh and study_cpu.sh, which set $out. A command whose manifest stands is not
# repeated; training that was interrupted goes on.
export OMP_NUM_THREADS=1
largest=40 # result of an operation in what is taught: with any result a tenth of a tiny model's sums and products were wrong

same_recipe() { # a folder holds the runs of one recipe
    now="$(cksum <"$(dirname "$0")/tiny_recipe.sh") ${BASE_UPDATES:-} ${PRIMED_TRACES:-} ${PRIMED_UPDATES:-} ${PAIR_TOKENS:-} ${RESPONSE_TOKENS:-} ${PPO_STEPS:-}"
    mkdir -p "$out"
    if [ -e "$out/recipe" ] && [ "$(cat "$out/recipe")" != "$now" ]; then
        echo "error: $out was begun with another recipe; go back to that one, or name another folder" >&2
        exit 1
    fi
    echo "$now" >"$out/recipe"
}
same_recipe

once() { # FOLDER COMMAND…
    [ -e "$1/manifest.json" ] || { shift && "$@"; }
}

tasks() { # 1,298 problems of three numbers, 250 of them kept for the evaluations
    once "$out/tasks" rl tasks --operands 3 --max-number 9 --min-target 1 --max-target 20 --num-train 0 --num-test 250 --seed 7 \
        --out "$out/tasks"
}

base() { # SEED [OPTION…]: plain arithmetic into a tiny model
    folder="$out/base/$1" seed=$1
    shift
    once "$folder" rl arithmetic --max-result "$largest" --seed "$seed" --out "$folder" "$@"
    train cpt --data "$folder/text" --model "$folder/start" --out "$folder/model" --seed "$seed" --learning-rate 3e-3 \
        --warmup-fraction 0.05 --tokens-per-step 2048 --context-tokens 512 --epochs 10 --max-steps "${BASE_UPDATES:-1500}"
}

primed() { # SEED KIND: the base model after this seed's set of that kind
    folder="$out/primed/$2/seed-$1"
    once "$folder" rl prime --kind "$2" --voice terse --template short --tasks "$out/tasks" --seed "$1" --traces-per-task 60 \
        --max-result "$largest" --tokenizer "$out/base/$1/start" --num-train "${PRIMED_TRACES:-8000}" --num-heldout 100 --max-failures 6 --out "$folder"
    train sft --data "$folder/train" --model "$out/base/$1/model" --out "$folder/model" --seed "$1" --learning-rate 3e-3 \
        --warmup-fraction 0.05 --tokens-per-step 2048 --context-tokens 512 --epochs 100 --max-steps "${PRIMED_UPDATES:-1200}"
}

paired() { # SEED: the traces of `all` and `linear` as two matched sets, and the base model after each of them
    folder="$out/pairs/$1"
    once "$folder/table" rl pairs --selected "$out/primed/all/seed-$1" --stripped "$out/primed/linear/seed-$1" --out "$folder/table"
    once "$folder/qa" curate adopt "$folder/table/pairs.parquet" --out "$folder/qa"
    once "$folder/sets" curate match --qa "$folder/qa" --tokenizer "$out/base/$1/start" --seed "$1" --similarity 0 --length-tolerance 1 \
        --budget-tokens "${PAIR_TOKENS:-600000}" --out "$folder/sets"
    for arm in enriched control; do
        train cpt --data "$folder/sets/$arm" --model "$out/base/$1/model" --out "$folder/$arm/model" --seed "$1" --learning-rate 3e-3 \
            --warmup-fraction 0.05 --tokens-per-step 2048 --context-tokens 512 --epochs 100 --max-steps "${PRIMED_UPDATES:-1200}"
    done
}

reinforced() { # SEED CONDITION MODEL [OPTION…]: PPO on that model. A run that gave up (its gradients were not finite) stays as it is
    folder="$out/experiment/$2/seed-$1" seed=$1 model=$3
    shift 3
    [ ! -e "$folder/stopped.json" ] || return 0
    once "$folder" rl ppo --preset tiny --model "$model" --data "$out/tasks" --seed "$seed" --out "$folder" --layout packed \
        --micro-batch-tokens 4096 --max-response-tokens "${RESPONSE_TOKENS:-192}" --total-steps "${PPO_STEPS:-40}" "$@" ||
        [ -e "$folder/stopped.json" ]
}
