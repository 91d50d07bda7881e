"""Drawing the responses of PPO's iterations.

models.py    the policy, its reference, its value function, its score and its sampler
draw.py      what an iteration samples, now
ahead.py     the next iteration's responses, drawn while this one trains
"""
