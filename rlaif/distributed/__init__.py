"""Training with several processes, one per GPU.

processes.py   the group that `accelerate launch` started: shards, sums, barriers
fsdp.py        FSDP2: a model's weights, gradients and moments sharded over the group
"""
