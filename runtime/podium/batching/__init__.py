"""Gathers requests into tensor batches and splits the answers. Knows no worker and no socket; time is an argument."""
