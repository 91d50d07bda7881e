"""Attention of models under training.

grouped.py   attention that is fast in bfloat16 on CPUs
"""
