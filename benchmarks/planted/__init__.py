"""Experiments whose truth is known: a planted judge, and a tiny policy that can show every trait."""
