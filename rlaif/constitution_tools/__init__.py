"""Where a constitution is edited with confidence: try it, test it, see what an edit changes.

session.py      try      one pair by hand, and the votes on it
examples.py     test     a principle's own examples through the judge; junit.py, watching.py
differences.py  diff     which stored labels an edit flips; changes.py: what the edit says
ablation.py     ablate   what each principle does to stored labels; reweighing.py: weights that
                         gold would choose; picture.py: which principles repeat each other
tables.py, ablation_report.py     all of it for people to read
"""
