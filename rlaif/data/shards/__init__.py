"""Folders of shards: a data set in many files, read as one and made one file at a time.

digests.py   digests that occur more than once, among very many
folder.py    what a folder of shards is, and whether it is complete
parquet.py   records as one Parquet file with a note of what made it, written whole
split.py     a file of any size as a folder of shards, in constant memory

Nothing here is parallel: rlaif/sharding makes the shards of a folder from those of another.
"""
