"""Creates, loads, unloads and terminates predictors, and runs scoring jobs."""
