"""Model backends. Run in worker processes alone; torch is imported nowhere else."""
