"""Kinds of stages that compare training methods.

best_of_n.py   answers by the best of n responses, picked by a reward model
compare.py     the table, the page and the last line of a comparison
measure.py     what a comparison measures from the folders of the stages that it is about
"""
