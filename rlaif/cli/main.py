"""The `rlaif` command; each file in service/, judge/ and training/ holds one group of subcommands.

Exit codes: 0 done, 1 user error (reported in one message), 2 wrong usage, 130 stopped by Ctrl-C.
Heavy imports stay inside the commands that need them, so that `rlaif --help` is fast.
"""

from __future__ import annotations

import os
import sys

import typer

from constitution.errors import UserError, install_hint
from rlaif.cli import commands, doctor, libraries
from rlaif.cli.data import convert, merge, score, shards
from rlaif.cli.judge import compare, constitution
from rlaif.cli.redteam import app as redteam
from rlaif.cli.service import serve, store, token, top
from rlaif.cli.settings_help import command_with_settings
from rlaif.cli.training import compare as compare_methods
from rlaif.cli.training import label, labels, models, revise, reward, runs, sample, train
from rlaif.cli.version import Version

OUR_PACKAGES = ("constitution", "hardware", "judge_service", "rlaif")

app = typer.Typer(
    help="A constitution (YAML) defines what better means for a judge (gRPC, vLLM); "
    "its labels train a policy (SFT, reward model, DPO, PPO, ReST).",
    epilog="Start here: rlaif doctor, then rlaif run quickstart",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: `rlaif --help` in a quarter of a second
)


@app.callback()
def root(version: Version = False) -> None:  # noqa: D103
    pass  # its docstring would replace the help above


app.command(cls=serve.ServeCommand, add_help_option=False, context_settings=serve.ALL_ARGUMENTS)(
    serve.serve
)
app.command(epilog="Example: rlaif top 127.0.0.1:9464")(top.top)
app.add_typer(store.app, name="store")
app.add_typer(token.app, name="token")
app.add_typer(compare.app, name="judge")
app.add_typer(constitution.app, name="constitution")
app.add_typer(models.app, name="models")
app.command(
    cls=command_with_settings("rlaif.generation.config:SamplingConfig"),
    epilog="Example: rlaif sample quickstart --model smollm2-135m --out samples.jsonl",
)(sample.sample)
app.command(epilog="Example: rlaif label samples.jsonl --out labels --judge qwen2.5-coder-1.5b")(
    label.label
)
app.command(epilog="Example: rlaif score samples.jsonl --reward runs/reward --out scores")(
    score.score
)
labels.app.command(epilog="Example: rlaif labels merge first second --out labels")(merge.merge)
app.add_typer(labels.app, name="labels")
app.add_typer(convert.app, name="data")
app.add_typer(shards.app, name="shards")
app.command(epilog="Example: rlaif revise samples.jsonl --judge qwen2.5-coder-1.5b")(revise.revise)
app.add_typer(redteam.app, name="redteam")
app.add_typer(train.app, name="train")
app.add_typer(reward.app, name="reward")
app.command(
    epilog="Example: rlaif evaluate dpo=dpo.jsonl ppo=ppo.jsonl --start start.jsonl "
    "--judge qwen2.5-coder-1.5b"
)(runs.evaluate)
app.command(epilog="Example: rlaif report runs/quickstart")(runs.report)
app.command(epilog="Example: rlaif run quickstart ppo.iterations=4 --dry-run")(runs.run)
app.command(epilog=compare_methods.EXAMPLES)(compare_methods.compare)
app.command(epilog="Example: rlaif recipes quickstart > my_recipe.yaml")(runs.recipes)
app.command(epilog="Example: rlaif doctor --json")(doctor.doctor)
commands.prepare(app)


def main() -> None:
    """Entry point: reports a user error as one readable message, never as a traceback."""
    libraries.settle(os.environ)
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in OUR_PACKAGES:
            raise
        print(
            f"error: this command needs the package {error.name!r}, which is not installed; "
            f"{install_hint('vllm', 'train', 'report')}",
            file=sys.stderr,
        )
        sys.exit(1)
    except KeyboardInterrupt:  # before or after the command itself, which answers its own
        sys.exit(130)


if __name__ == "__main__":
    main()
