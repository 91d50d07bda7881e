"""The HTML report of a run, and the tables of an evaluation.

page.py            the page of a run folder, section by section
report.html.j2     its template
tables.py          an evaluation as tables, on the page and on the terminal
curves.py          which metrics are plotted and how they are captioned; alarms
figures.py         how a plot is drawn, as inline SVG
"""
