"""Direct preference optimization.

config.py             settings; the loss chooses its own
losses/               the table of losses, one file per kind
hard_labels.py        labels for losses that only know which response is better
reference_cache.py    reference log-probs, computed once per pair
reference_file.py     those of a corpus, in a file beside it
train.py              the training loop
"""
