"""Jobs on a cluster, by Slurm."""
