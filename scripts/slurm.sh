#!/bin/bash
# One long run as a plain job, for those who want no launcher. From the project's root, once `make setup` has been
# run and the data set is there (`make train ARGS=dry_run=true`, where there is a network):
#
#   sbatch scripts/slurm.sh experiment=keras_note trainer.max_epochs=100
#
# Before the time limit, and when another job needs the nodes, it saves at a step boundary and is requeued; each
# time it goes on in outputs/slurm/JOB, bit for bit where it was. Several tasks or nodes are one DDP run.
#SBATCH --job-name=leyden
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --mem=8G
#SBATCH --time=04:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=outputs/slurm-%j.log
set -euo pipefail
cd "$SLURM_SUBMIT_DIR"
export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK

# The signal waits until training starts, should it come while Python is importing.
srun env --block-signal=USR1 "${PYTHON:-.venv/bin/python}" -m leyden.train \
  run_dir="outputs/slurm/$SLURM_JOB_ID" data.download=false \
  trainer.num_nodes="$SLURM_JOB_NUM_NODES" trainer.devices="${SLURM_NTASKS_PER_NODE:-1}" "$@"
