"""What the judge does with one response instead of a pair.

score.py    the expected rating of one response
revise.py   critiques and revisions of one response
"""
