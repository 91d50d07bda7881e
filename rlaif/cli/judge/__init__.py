"""The commands `rlaif judge …` and `rlaif constitution …`.

compare.py              judge compare, rank and calibrate
bench.py                judge bench and reward bench
promote.py              judge promote
response.py             judge score, critique, revise and preview
constitution.py         constitution new, show and lint
constitution_tools.py   constitution test, diff, ablate and try
options.py              options and judge connections shared by these commands
"""
