"""The `rlaif` command.

main.py           the command, its groups of subcommands, exit codes
commands.py       what every command has: nearest choices, --ca and --token, Ctrl-C
complete.py       what the shell completes beside commands and flags
doctor.py         `rlaif doctor`, which prints checks.py
checks.py         this machine, this installation, and what the demo will take here
interrupt.py      what Ctrl-C leaves behind, and how to go on
libraries.py      other libraries' progress bars, threads and statistics
options.py        options that several commands share
settings_help.py  the settings of a command in its --help
version.py        `rlaif --version`
service/          serve, top, store, token: run a judge server
judge/            judge, constitution: query a judge, edit constitutions
redteam/          redteam: attack a model, and test it
data/             data, shards: data sets of others, folders of shards
training/         sample, label, train, evaluate, run and the rest
"""
