"""`rlaif redteam`: attacks on a model, and what becomes of their failures.

app.py          the group of commands; `rlaif redteam MODEL` is `rlaif redteam attack MODEL`
attack.py       `rlaif redteam attack`: the grid, the attacker, the judge
regressions.py  `rlaif redteam adopt | check | convert`: training prompts and tests
"""
