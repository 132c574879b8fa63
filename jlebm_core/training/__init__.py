"""Training: stages as data, one loop for every system, batches, and what a run watches."""
