#!/usr/bin/env bash
# On SLURM, a process for each GPU. Tried with a fake srun only.
#
#   sbatch --partition=NAME launch/slurm.sh \
#     --config=configs/standard.py --workdir=/shared/runs/standard
#
#   sbatch --nodes=4 --gpus-per-node=8 --ntasks-per-node=8 launch/slurm.sh \
#     --config=FILE --workdir=/shared/runs/it --config.mesh.data=-1
#
# Submit from the repository root. Options given to sbatch override those below.
# Of several tasks each takes the GPU of its number on its node: ask for as many
# tasks as GPUs, and do not bind GPUs to tasks. All of them see --workdir.
#
# EASE_VENV   virtual environment with ease_jax[cuda] (default: .venv)
# DRY_RUN=1   print the command, run nothing
#
# Before the time limit SLURM sends SIGTERM, on which the run saves and stops;
# submit the same command again to continue it.
#
#SBATCH --job-name=ease_jax
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
#SBATCH --output=slurm-%j.log
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?submit this with sbatch}"
export PATH="${EASE_VENV:-$PWD/.venv}/bin:$PATH"

program=(python -m ease_jax.main)
if ((${SLURM_NTASKS:-1} > 1)); then
  program+=(--multihost=auto) # JAX asks SLURM who the others are
fi
command=(srun --kill-on-bad-exit=1 "${program[@]}" "$@")
if [[ -n ${DRY_RUN:-} ]]; then
  printf '%q ' "${command[@]}"
  printf '\n'
  exit
fi
exec "${command[@]}"
