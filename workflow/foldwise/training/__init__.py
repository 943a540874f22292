"""The training loop, its checkpoints, the step sampler and the time budget."""
