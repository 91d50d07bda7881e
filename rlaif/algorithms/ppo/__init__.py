"""Proximal policy optimization.

config.py          settings
estimator_base.py  what an advantage estimator takes and returns
estimators.py      the table of advantage estimators
advantages.py      the equations of gae, rloo, grpo and dr_grpo
critic.py          the value function
drawing/           the responses of an iteration, drawn now or ahead of it
rollout.py         responses scored and measured
losses.py          the losses of policy and value function
update.py          batches, gradients and the KL guard
guards.py          adaptive KL, max_kl, rollback
evaluation.py      a judge's comparisons on held-out prompts
train.py           the training loop
"""
