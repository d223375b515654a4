#!/usr/bin/env bash
# One process on this machine, on every device that JAX finds in it.
#
#   launch/local.sh --config=configs/quickstart.py --workdir=runs/quickstart
#
# JAX_PLATFORMS=cpu       hide the accelerators
# CUDA_VISIBLE_DEVICES=0  use only some GPUs
#
# The same command again continues a run that was stopped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# The environment that `make` creates, unless another one is active.
if [[ -z ${VIRTUAL_ENV:-} && -x .venv/bin/python ]]; then
  PATH="$PWD/.venv/bin:$PATH"
fi
exec python -m ease_jax.main "$@"
