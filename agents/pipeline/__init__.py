"""All stages of a run in one folder; start reading at `pipeline.pipeline`."""
