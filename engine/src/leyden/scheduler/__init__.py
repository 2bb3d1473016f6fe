"""The cluster's batch system, Slurm."""
