"""Attention of models under training, and the check that a model is computed exactly.

grouped.py       attention that is fast in bfloat16 on CPUs
check.py         log-probs as training computes them against those of the model's class, at load
shared_rows.py   responses to one prompt in one row: which models keep them apart, their mask
"""
