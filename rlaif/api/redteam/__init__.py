"""Red teaming from Python.

attacking.py     red_team: attacks on a model
regressions.py   adopt_failures, check_regressions: failures as training prompts and tests
"""
