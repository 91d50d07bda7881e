"""`python -m judge_service`: a judge server without the package rlaif.

Exit status: 0 stopped or probed as serving, 1 a user's error in one message, 2 wrong usage.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from constitution.errors import UserError, install_hint
from judge_service.settings_flags import from_arguments, server_parser
from judge_service.settings_sources import as_yaml, configure, from_environment, from_file

PROG = "python -m judge_service"
DESCRIPTION = """
Serve judgments over gRPC until SIGTERM or Ctrl-C.

Every setting can be set in the file of --config, in the environment as RLAIF_SERVE_<NAME>, and as a
flag; later ones win. --print-config shows them all. Paths are relative to the working directory.
"""
EXAMPLES = """
Examples:
  python -m judge_service --config serve.yaml
  python -m judge_service --model models/judge --constitution hhh
      --store reads.sqlite
  python -m judge_service --config serve.yaml --port 6000 --print-config
  python -m judge_service --config serve.yaml --probe
  python -m judge_service --model judge-1 --engine openai
      --openai-url http://127.0.0.1:8000/v1 --openai-tokenizer models/judge
"""
_OURS = ("constitution", "hardware", "judge_service")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status (see the module).

    argv: without the program's name; None takes sys.argv's.
    """
    # Waiting threads of OpenMP yield instead of spinning.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        _serve(argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in _OURS:
            raise
        print(
            f"error: the server needs the package {error.name}, which is not installed; "
            f"{install_hint('serve')}",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _serve(argv: Sequence[str] | None) -> None:
    arguments = server_parser(PROG, DESCRIPTION, EXAMPLES).parse_args(argv)
    configured = configure(
        [
            from_file(arguments.config) if arguments.config else {},
            from_environment(os.environ),
            from_arguments(arguments),
        ]
    )
    if arguments.print_config:
        print(as_yaml(configured), end="")
    elif arguments.probe:
        from judge_service.server.lifecycle.probe import probe

        probe(configured.settings)
    else:
        from judge_service.server.run import run

        run(configured.settings)


if __name__ == "__main__":
    sys.exit(main())
