"""CMA-ES, the controllers it evolves, and their initialization; start reading at `evolution.evolve`."""
