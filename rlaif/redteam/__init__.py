"""Red teaming: attacks on a model, and what becomes of those that succeed.

config.py       settings of attacks and checks, without torch
strategies.py   topics and strategies, from a YAML file
strategies.yaml those that ship
families.py     the split of attack families between training and tests
responder.py    responses of a local model, each kept once it is there
attacker.py     new wordings of a request, written by a model
verdict.py      whether an attack succeeded: by rule, and by the judge's rating
attack.py       the grid topic x strategy, within a budget
records.py      attacks, failures and twins as they are saved
summary.py      the counts of an attack, in words
regressions/    failures as training prompts and as tests, split by family
"""
