"""Tools for editing a constitution: try it, test it, and see what an edit changes.

try_session.py       try: type a pair and see the votes, while editing the file
examples.py          test: judge a principle's own examples
watch.py             test --watch: wait until a file is saved
junit.py             test --junit: outcomes as JUnit XML
changes.py           diff: what an edit changed in the constitution
diff.py              diff: which stored labels an edit flips
ablate.py            ablate: what each principle does to stored labels
reweigh.py           ablate --gold: weights that gold pairs would choose
figures.py           ablate --out: the redundancy matrix as a picture
ablation_report.py   ablate: the report as tables and JSON
tables.py            test, try, diff: tables for the terminal
"""
