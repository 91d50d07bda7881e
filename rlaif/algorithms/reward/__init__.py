"""Reward-model training.

config.py    settings
losses.py    the Bradley-Terry loss on soft labels
heads.py     the traits that get a head, and each pair's labels
corpus_labels.py    heads and labeled pairs of a corpus
labels.py    the labels of a batch as tensors
train.py     the training loop and the held-out evaluation
"""
