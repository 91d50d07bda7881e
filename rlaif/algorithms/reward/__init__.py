"""Reward-model training.

config.py    settings
losses.py    the Bradley-Terry loss on soft labels
labels.py    which labels each head learns from
train.py     the training loop and the held-out evaluation
"""
