"""The `rlaif` command.

main.py           the command, its groups of subcommands, exit codes
options.py        options that several commands share
settings_help.py  the settings of a command in its --help
service/          serve, top, store, token: run a judge server
judge/            judge, constitution: query a judge, edit constitutions
training/         sample, label, train, evaluate, run and the rest
"""
