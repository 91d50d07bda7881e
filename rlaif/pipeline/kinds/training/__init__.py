"""The kinds of stages that train a model, one file each.

sft.py       supervised fine-tuning
reward.py    a reward model
dpo.py       direct preference optimization
ppo.py       proximal policy optimization
rest.py      reinforced self-training
"""
