"""CMA-ES, the search and its callbacks, search coordinates and behavior cloning; start reading at `evolution.evolve`."""
