"""Supervised fine-tuning.

config.py     settings
lessons.py    sources of records, their rows of token ids, and the mix
train.py      the loss and the training loop
"""
