"""Commands from prompts to a trained policy.

data.py     `rlaif sample`, `label`, `revise`: responses, labels, revisions
labels.py   `rlaif labels …`: show, count, verify and export labels
train.py    `rlaif train …`: SFT, reward model, DPO, PPO, ReST
reward.py   `rlaif reward …`: reweigh and compare reward models
models.py   `rlaif models …`: fetch models, merge adapters
runs.py     `rlaif run`, `evaluate`, `report`: whole recipes
"""
