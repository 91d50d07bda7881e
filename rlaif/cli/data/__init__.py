"""The `rlaif` commands about data sets.

convert.py   rlaif data convert: public data sets as our records
merge.py     rlaif labels merge
score.py     rlaif score
shards.py    rlaif shards …: folders of shards; options and tables of commands that take them
"""
