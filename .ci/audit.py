"""Known vulnerabilities of what is installed here, by pip-audit: part of `make check`.

Fails for one that a newer version mends; those without a remedy are listed and pass, so that a
check can be green again. The packages that were audited are named, and those that were not.
pip-audit calls a package that it found nothing about "skipped" and is content; where its data
cannot be reached that is every package, and this says so instead of an audit's result.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

AUDIT = ["-m", "pip_audit", "--format", "json", "--progress-spinner", "off"]
UNREACHED = ("requests.exceptions.", "pip_audit._service.", "Could not connect")
"""What pip-audit writes to stderr when a service does not answer, or not as it should."""


def report(dependencies: Sequence[Mapping[str, Any]]) -> tuple[bool, list[str]]:
    """(whether it passes, what to say) of pip-audit's list of dependencies."""
    audited = [each for each in dependencies if "vulns" in each]
    if not audited:
        return True, [
            f"audit: no advisory data could be reached, so none of {len(dependencies)} packages "
            "was audited; run `make check` where the package index answers"
        ]
    found = [(each, vuln) for each in audited for vuln in each["vulns"]]
    remedied = [vuln for _, vuln in found if vuln["fix_versions"]]
    names = ", ".join(f"{each['name']} {each['version']}" for each in audited)
    skipped = ", ".join(each["name"] for each in dependencies if "vulns" not in each)
    lines = [f"audit: {len(audited)} of {len(dependencies)} packages audited: {names}"]
    lines += [f"audit: not audited, no advisory data about them: {skipped}"] if skipped else []
    lines += [
        f"audit: {each['name']} {each['version']}: {vuln['id']}: "
        + (f"fixed in {', '.join(vuln['fix_versions'])}" if vuln["fix_versions"] else "no remedy")
        for each, vuln in found
    ]
    lines.append(f"audit: {len(found)} known vulnerabilities, {len(remedied)} with a remedy")
    return not remedied, lines


def failure(stderr: str) -> tuple[bool, str]:
    """(whether it passes, what to say) of a pip-audit that ended without a list."""
    why = (stderr.strip().splitlines() or ["no output"])[-1][:200]
    if "No module named pip_audit" in why:
        return False, f"audit: pip-audit is not installed ({why}); pip install -e '.[dev]'"
    if any(mark in stderr for mark in UNREACHED):
        return True, f"audit: nothing was audited: pip-audit could not reach its data ({why})"
    return False, f"audit: nothing was audited: pip-audit failed ({why}); run python -m pip_audit"


def main(scope: Sequence[str] = ("--local",)) -> int:
    """The process's exit status; `scope` are pip-audit's options that choose the packages."""
    command = [sys.executable, *AUDIT, *scope]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        dependencies = json.loads(done.stdout)["dependencies"]
    except ValueError:  # it stops with a traceback when the index cannot be reached at all
        passes, line = failure(done.stderr)
        lines = [line]
    else:
        passes, lines = report(dependencies)
    for line in lines:
        print(textwrap.fill(line, 100, subsequent_indent="    ", break_on_hyphens=False))
    return 0 if passes else 1


if __name__ == "__main__":
    raise SystemExit(main())
