"""Stages of a recipe whose rows are made as shards by the workers of a Ray cluster.

config.py   what a recipe says under `fleet`
places.py   which stages that concerns
work.py     how a stage has its rows made, and takes them back
"""
