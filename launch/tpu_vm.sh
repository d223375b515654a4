#!/usr/bin/env bash
# On a TPU VM, on all of its hosts. Not run by us.
#
# On the one host of a small slice, in a checkout of this repository:
#
#   launch/tpu_vm.sh --config=configs/standard.py --workdir=$HOME/runs/standard
#
# From your own machine, on every host of a slice, each with the same checkout:
#
#   TPU_NAME=NAME TPU_ZONE=ZONE launch/tpu_vm.sh \
#     --config=FILE --workdir=DIR --config.mesh.data=-1
#
# where DIR is a folder that all hosts see.
#
# TPU_FOLDER      of the checkout on the hosts (default: ease_jax)
# EASE_VENV       virtual environment, created when missing (.venv-tpu)
# EASE_PYTHON     interpreter that creates it, 3.11 or newer (python3)
# EASE_MULTIHOST  auto where there are several hosts, which the second form sets
# DRY_RUN=1       print the command, run nothing
set -euo pipefail

run() {
  if [[ -n ${DRY_RUN:-} ]]; then
    printf '%q ' "$@"
    printf '\n'
  else
    "$@"
  fi
}

if [[ -n ${TPU_NAME:-} ]]; then
  # A shell of each host reads the words once more.
  folder=$(printf '%q' "${TPU_FOLDER:-ease_jax}")
  there="cd $folder && EASE_MULTIHOST=auto launch/tpu_vm.sh"
  for argument in "$@"; do
    there+=$(printf ' %q' "$argument")
  done
  run gcloud compute tpus tpu-vm ssh "$TPU_NAME" \
    --zone="${TPU_ZONE:?give the zone of TPU_NAME}" \
    --worker=all --command="$there"
  exit
fi

cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=${EASE_VENV:-.venv-tpu}
if [[ ! -e $venv/.installed ]]; then
  run "${EASE_PYTHON:-python3}" -m venv "$venv"
  run "$venv/bin/python" -m pip install -q -e '.[tpu]'
  run touch "$venv/.installed"
fi
PATH="$venv/bin:$PATH"
export JAX_PLATFORMS=tpu,cpu # fail rather than train on the host alone
program=(python -m ease_jax.main)
if [[ -n ${EASE_MULTIHOST:-} ]]; then
  program+=("--multihost=$EASE_MULTIHOST")
fi
run "${program[@]}" "$@"
