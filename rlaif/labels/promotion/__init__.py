"""Adoption of another reader, calibration, wording, protocol or judge, on held-back gold pairs.

candidates.py   what a candidate is, as the command line names it
fit_reader.py   ridge logistic regression over what the reads give
gain.py         the paired gain on held-back prompts, its interval, and who is adopted
promote.py      judges the gold pairs, tries the candidates, and records what was adopted
"""
