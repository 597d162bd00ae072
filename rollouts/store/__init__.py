"""Rollouts on disk, and the datasets that read them; start reading at `store.store`."""
