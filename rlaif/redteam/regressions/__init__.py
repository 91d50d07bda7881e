"""Failures as tests: prompts that a model failed on once, which it must not fail on again.

records.py     a regression test
files.py       files of them
promptfoo.py   the same as promptfoo's test cases in YAML
adopt.py       failures split by family: training prompts and regression tests
check.py       a model tested by them
junit.py       the outcome as JUnit XML
"""
