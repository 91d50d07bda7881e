"""Work of several processes: training, one per GPU, and tasks on a Ray cluster.

processes.py   the group that `accelerate launch` started: shards, sums, barriers
fsdp.py        FSDP2: a model's weights, gradients and moments sharded over the group
fleet.py       independent tasks on the actors of a Ray cluster, which may die
actors.py      objects on a Ray cluster, each in a process of its own
"""
