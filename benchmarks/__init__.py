"""Commands that write the tables of speeds, scores and likelihoods."""
