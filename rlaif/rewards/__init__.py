"""Sources of response scores: reward models, a judge service, callables, and their mixes.

base.py       the interface of a kind of source; reasons for missing scores
folder.py     runs/reward: a reward model
judge.py      judge:HOST:PORT: a judge service
callable.py   package.module:function
mix.py        the weighted sum of several sources
scale.py      mean and standard deviation of scores without a scale of their own
standardized.py  a reward whose sources all have a scale: a judge's ratings are standardized
scoring.py    samples → scored samples, for `rlaif score`
sources.py    SOURCES, the table of kinds; parsing and opening the sources a user names
"""
