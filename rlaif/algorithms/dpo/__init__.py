"""Direct preference optimization.

config.py             settings; the loss chooses its own
losses/               the table of losses, one file per kind
reference_cache.py    reference log-probs, computed once per pair
train.py              the training loop
"""
