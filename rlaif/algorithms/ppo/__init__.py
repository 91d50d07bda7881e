"""Proximal policy optimization.

config.py          settings
estimator_base.py  what an advantage estimator takes and returns
estimators.py      the table of advantage estimators
advantages.py      the equations of gae, rloo and grpo
critic.py          the value function
rollout.py         responses sampled, scored and measured
update.py          losses, gradients and the KL guard
guards.py          adaptive KL, max_kl, rollback
evaluation.py      a judge's comparisons on held-out prompts
train.py           the training loop
"""
