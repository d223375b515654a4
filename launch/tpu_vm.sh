#!/usr/bin/env bash
# One process on a TPU VM with a single host. Not run by us.
#
# On the TPU VM, in a checkout of this repository:
#
#   launch/tpu_vm.sh --config=configs/standard.py --workdir=$HOME/runs/standard
#
# EASE_VENV     virtual environment, created when missing (default: .venv-tpu)
# EASE_PYTHON   interpreter that creates it, 3.11 or newer (default: python3)
#
# This release trains in one process: take a slice with one host (for example
# v5litepod-8); slices over several hosts are not implemented yet.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=${EASE_VENV:-.venv-tpu}
if [[ ! -e $venv/.installed ]]; then
  "${EASE_PYTHON:-python3}" -m venv "$venv"
  "$venv/bin/python" -m pip install -q -e '.[tpu]'
  touch "$venv/.installed"
fi
PATH="$venv/bin:$PATH"
export JAX_PLATFORMS=tpu,cpu  # fail rather than train on the host alone
exec python -m ease_jax.main "$@"
