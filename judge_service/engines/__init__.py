"""Engines: each file is one way to run a judge model. Heavy imports live here and nowhere else."""
