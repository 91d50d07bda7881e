"""What a run of many pairs will take, from costs measured at two small sizes.

commands.py     one `rlaif` command in a process of its own: CPU, peak memory
"""
