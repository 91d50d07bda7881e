"""Reward."""
