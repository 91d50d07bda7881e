"""Policies that were all compared with each other.

tournament.py       every policy compared with every other, by a judge
strengths.py        types of comparisons and strengths
bradley_terry.py    strengths from comparisons, with standard errors by prompt
"""
