"""Reinforced self-training.

config.py     settings
grow.py       Grow: responses sampled, scored and kept on disk
improve.py    the thresholds, and the responses above them
train.py      Grow and Improve in turn
"""
