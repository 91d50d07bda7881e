"""The school: labels in, policy out."""
