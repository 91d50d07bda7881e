"""What is known of the judges of an evaluation, and what each of them says. Nothing here asks one.

column.py      one judge's win rates of all policies, and whether it labeled the training data
agreement.py   how often two judges name the same winner, beside chance
whole.py       all of it together, with verdicts of people and a round robin
worth.py       how often a judge names the better response of gold pairs, measured before
shipped.json   that, for the judges that ship
"""
