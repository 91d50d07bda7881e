"""Lessons from critique and revision: the supervised phase of Constitutional AI.

rounds.py    the judge's critiques and revisions, round by round
lint.py      what makes a revision a bad lesson, by rule
gate.py      a revision compared with its original, in both orders
lessons.py   all of it: lessons, what was refused and why, pairs with receipts
summary.py   the counts of a revised set, in words
"""
