"""The files of a run: folders, results of iterations, start states, real returns to compare with."""
