"""Experiments whose truth is known: a planted judge, and a policy that can show every trait."""
