"""RLAIF training: a judge's labels in, a trained policy out.

data/                 records, prompt files, JSONL and Parquet
feedback/             everything that talks to a judge: labels, revisions, rewards
labels/               what is done with labels: statistics, verification, export, calibration
models/               model folders, the backbone with its LoRA roles, the reward model
batching/             token ids in dense batches, and their log-probabilities
generation/           sampling from a policy
rewards/              where a response's score comes from
distributed/          the processes of one `accelerate launch`, FSDP2
training/             what all trainers share: settings, optimizer, checkpoints, metrics
algorithms/           SFT, reward model, DPO, PPO, ReST
evaluation/           policies and reward models, with 95 % intervals
report/               the HTML page of a run
constitution_tools/   test, diff, ablate and try a constitution
pipeline/             recipes and their stages
cli/                  the `rlaif` command
settings.py           settings given as key=value
progress.py           progress bars and lines
terminal_tables.py    tables that never cut an identifier, at any width
time_left.py          the estimate of the time left
"""
