"""Policies that were all compared with each other.

tournament.py       every policy compared with every other, by a judge
bradley_terry.py    their strengths, with standard errors by prompt
"""
