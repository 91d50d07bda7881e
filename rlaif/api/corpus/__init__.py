"""Corpora: labels tokenized once, for training.

prepare.py    prepare_corpus: labels → a corpus
plan.py       training on a corpus, checked and not started
"""
