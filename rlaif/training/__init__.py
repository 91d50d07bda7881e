"""What the trainers share. config, preflight and trackers import no torch.

config.py         settings of every trainer, and TrainingError
schedules.py      the learning rate by step
learner.py        the optimizer and its state
recompute.py      gradient checkpointing: layers computed again instead of kept
run.py            a run's folder: checkpoints, exact resume, metrics
checkpoints.py    checkpoint files, written atomically
checks.py         finite losses, the model's context, peak memory
preflight.py      what is refused before torch is imported
heldout.py        held-out records: when they are evaluated, which checkpoint is kept
alarms.py         training failures that the loss does not show
trackers.py       TensorBoard and Weights & Biases
plain_text/       held-out plain text: what is forgotten
"""
