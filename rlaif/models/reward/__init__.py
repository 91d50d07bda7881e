"""Parts of a reward model (reward_model.py beside this folder).

heads.py      the heads over hidden states, and their scores in standard deviations
weights.py    reward.json: which weights the traits have, and changing them; imports no torch
"""
