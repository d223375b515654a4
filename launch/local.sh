#!/usr/bin/env bash
# On this machine: one process, or PROCESSES that make one run together.
#
#   launch/local.sh --config=configs/quickstart.py --workdir=runs/quickstart
#   PROCESSES=2 launch/local.sh --config=FILE --workdir=DIR \
#     --config.mesh.data=-1
#
# PROCESSES       how many (default: 1, on every device that JAX finds)
# PORT            of this machine, where they meet (default: a random one)
# DEVICES=0,1,2,3 GPUs that the processes share evenly; without it each sees all
# JAX_PLATFORMS   cpu hides the accelerators
# DRY_RUN=1       print the commands, run nothing
#
# The same command again continues a run that was stopped. If one process
# fails, the others are stopped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# The environment that `make` creates, unless another one is active.
if [[ -z ${VIRTUAL_ENV:-} && -x .venv/bin/python ]]; then
  PATH="$PWD/.venv/bin:$PATH"
fi

fail() {
  echo "launch/local.sh: $1" >&2
  exit 1
}

show() {
  printf '%q ' "$@"
  printf '\n'
}

processes=${PROCESSES:-1}
[[ $processes =~ ^[1-9][0-9]*$ ]] ||
  fail "PROCESSES=$processes is no number of processes; use 1 or more"

devices=()
if [[ -n ${DEVICES:-} ]]; then
  IFS=, read -ra devices <<<"$DEVICES"
  ((${#devices[@]} % processes == 0)) ||
    fail "DEVICES=$DEVICES cannot be shared evenly by PROCESSES=$processes"
fi
share=$((${#devices[@]} / processes))

# Prints the environment of a process, a line each.
environment_of() {
  if ((processes > 1)); then
    echo "EASE_COORDINATOR=127.0.0.1:$port"
    echo "EASE_NUM_PROCESSES=$processes"
    echo "EASE_PROCESS_ID=$1"
  fi
  if ((share > 0)); then
    local own=("${devices[@]:$1 * share:share}")
    (IFS=, && echo "CUDA_VISIBLE_DEVICES=${own[*]}")
  fi
}

port=${PORT:-$((20000 + RANDOM % 10000))}
program=(python -m ease_jax.main)
if ((processes > 1)); then
  program+=(--multihost=env)
fi

started=()
stop() {
  kill -TERM "${started[@]}" 2>/dev/null || true
}
trap stop TERM INT

for ((i = 0; i < processes; i++)); do
  mapfile -t environment < <(environment_of "$i")
  command=(env "${environment[@]}" "${program[@]}" "$@")
  if [[ -n ${DRY_RUN:-} ]]; then
    show "${command[@]}"
  elif ((processes == 1)); then
    exec "${command[@]}"
  else
    "${command[@]}" &
    started+=($!)
  fi
done

code=0
for _ in "${started[@]}"; do
  wait -n || code=$?
  if ((code)); then
    stop
    break
  fi
done
wait
exit "$code"
