"""Commands from prompts to a trained policy.

sample.py   `rlaif sample`: responses of a policy
label.py    `rlaif label`: pairs of responses become labels
revise.py   `rlaif revise`: critiques and revisions
labels.py   `rlaif labels …`: show, count, verify and export labels
dry_run.py  what `rlaif train … --dry-run` prints
train.py    `rlaif train …`: SFT, reward model, DPO, PPO, ReST
prepare.py  `rlaif train prepare …`: labels tokenized once, for several trainings
reward.py   `rlaif reward …`: reweigh and compare reward models
models.py   `rlaif models …`: fetch models, merge adapters
runs.py     `rlaif run`, `evaluate`, `report`: whole recipes
compare.py  `rlaif compare`: methods side by side over seeds
"""
