"""Where the score of a response comes from.

base.py       what a kind of source is; why responses got no score
folder.py     runs/reward: a reward model
judge.py      judge:HOST:PORT: a judge service
callable.py   package.module:function
mix.py        the weighted sum of several sources
sources.py    SOURCES, the table of kinds; reading and opening what a user names
"""
