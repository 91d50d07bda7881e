"""Supervised fine-tuning.

config.py     settings
sources.py    the records of each source and their share
lessons.py    rows of token ids, and the mix of sources
train.py      the loss and the training loop
"""
