"""Tasks in this process, in worker processes or on a Ray cluster; start reading at `executors.workers`."""
