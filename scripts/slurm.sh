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

# The signal waits until the run can handle it, should it come while Python is importing.
wait_for_run='import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1]); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])'
srun "${PYTHON:-.venv/bin/python}" -c "$wait_for_run" -m leyden.train \
  run_dir="outputs/slurm/$SLURM_JOB_ID" data.download=false \
  trainer.num_nodes="$SLURM_JOB_NUM_NODES" trainer.devices="${SLURM_NTASKS_PER_NODE:-1}" "$@"
