#!/usr/bin/env bash
# One process on one SLURM node. Not run by us.
#
#   sbatch --partition=NAME launch/slurm.sh \
#     --config=configs/standard.py --workdir=/shared/runs/standard
#
# Submit from the repository root. Options given to sbatch override those below.
# EASE_VENV   virtual environment with ease_jax[cuda] (default: .venv)
#
# This release trains in one process; more than one node or task is not
# implemented yet. Before the time limit SLURM sends SIGTERM, on which the run
# saves and stops; submit the same command again to continue it.
#
#SBATCH --job-name=ease_jax
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
#SBATCH --output=slurm-%j.log
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?submit this with sbatch}"
export PATH="$PWD/.venv/bin:$PATH"
if [[ -n ${EASE_VENV:-} ]]; then
  export PATH="$EASE_VENV/bin:$PATH"
fi
exec srun --ntasks=1 python -m ease_jax.main "$@"
