#!/bin/bash
# Runs the workflow itself as a small Slurm job, so that no login shell has to stay open:
#   sbatch profiles/slurm/driver.sh --configfile experiments/lung.yaml
# All arguments are passed to Snakemake. Cancel with `scancel --signal=INT --full <job>`; it then cancels its jobs.
#SBATCH --job-name=foldwise-driver
#SBATCH --cpus-per-task=1
#SBATCH --mem=4G
#SBATCH --time=7-00:00:00
#SBATCH --output=foldwise-driver-%j.log
set -euo pipefail
export PATH="$PWD/.venv/bin:$PATH"
exec snakemake --profile profiles/slurm "$@"
