"""Working with labels: counting, checking, exporting, updating, and calibrating the judge.

statistics.py           counts and means over a file of labels
verify.py               recompute labels from their receipts, or judge a sample again
merge.py                labels of several files and folders as one, each pair once
export.py               labels in the formats of TRL and OpenRLHF, or as plain JSON lines
reaggregate.py          a label under an edited constitution, from the votes it already has
update.py               label again after an edit, reusing earlier votes
recalibrate.py          apply a calibration or reader to labels from their receipts
calibrate.py            fit a calibration of the judge to gold pairs
calibration_report.py   the metrics and the selected curve, for the terminal
promotion/              adopt what judges held-back gold pairs better
"""
