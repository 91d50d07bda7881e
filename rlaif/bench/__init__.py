"""Benchmarks of judges and reward models on gold sets (rlaif/gold_sets): `rlaif judge bench`.

judge.py          a judge's answers: pairs in both orders, or scores; resumable
plan.py           what a judge is asked, and how many reads that takes
reward.py         a reward model's answers: its scores; resumable
scores.py         scores on disk, so that a killed run resumes
obedience.py      whether labels reverse with the principle: inversion, and its figures
result.py         one file's result: figures, floors, length, obedience, cost, and the verdict
worth.py          what a judge is worth, for `rlaif evaluate --worth`
table.py          results as tables for the terminal
"""
