"""Training loop, checkpoints, and several processes; start reading at `training.fit`."""
