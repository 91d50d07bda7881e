"""The environment of TRL 1.12, the last release with PPO, made once under the cache folder.

It is a venv that also sees this interpreter's packages (torch, transformers, peft: the same
versions for both sides, nothing downloaded twice); only trl itself is its own.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from rlaif.models.catalog import cache_folder

REQUIREMENT = "trl==1.12.*"
_VERSION = "import trl; print(trl.__version__)"


def python_with_trl_112() -> str:
    """The interpreter to run TRL's PPO with; makes its environment on the first call.

    Raises SystemExit, with what pip said, when it cannot be made.
    """
    folder = cache_folder() / "benchmarks" / "trl-1.12"
    python = folder / "bin" / "python"
    if _has_trl_112(python):
        return str(python)
    print(f"installing {REQUIREMENT} into {folder} (once) ...", file=sys.stderr, flush=True)
    try:
        venv.create(folder, with_pip=False, clear=True)
    except OSError as error:
        raise SystemExit(
            f"{folder}: cannot be made ({error.strerror}); choose another cache with "
            "RLAIF_CACHE=FOLDER"
        ) from error
    own = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    (own / "packages_of_the_project.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = [str(python), "-m", "pip", "install", "--disable-pip-version-check", REQUIREMENT]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not _has_trl_112(python):
        said = "\n".join((done.stdout + done.stderr).splitlines()[-8:])
        raise SystemExit(
            f"{REQUIREMENT} could not be installed into {folder}, and there is no PPO to compare "
            f"with without it. `{' '.join(install)}` said:\n{said}"
        )
    return str(python)


def _has_trl_112(python: Path) -> bool:
    if not python.exists():
        return False
    command = [str(python), "-c", _VERSION]
    version = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return version.startswith("1.12.")
