"""Runs batches: validates their lines, runs them as requests of the lowest class, and writes the results."""
