"""The HTML report of a run, and the tables of an evaluation.

inputs.py     the stages of a run and their folders, from its run.json
page.py       the page: the first screen, then one section per stage
sections/     the content of a section, one builder per kind of stage
templates/    the page as HTML, its style sheet, and the script of its filters
curves.py     which metrics are plotted and how they are captioned; alarms
figures.py    how a plot is drawn, as inline SVG
axes.py       ranges and ticks of a plot
excerpts.py   which records of a long file are shown
formats.py    estimates as text, with their intervals
judged_by.py  who judged, what that judge is worth, and the floor, in words
tables.py     an evaluation as tables, on the page and on the terminal
rounds.py     rounds in words, as a table and as curves
beyond_win_rates.py   when judging stopped, win rates by people, strengths of a round robin
"""
