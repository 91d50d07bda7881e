"""What comes out of rounds of labeling and training.

result.py   a round's policy against the start and the round before; when rounds end
"""
