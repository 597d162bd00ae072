"""Reports, plots, videos and statistics of runs; start reading at `analysis.report`."""
