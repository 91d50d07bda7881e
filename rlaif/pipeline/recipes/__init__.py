"""The recipes that ship: YAML files, run by name."""
