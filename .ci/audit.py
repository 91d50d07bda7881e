"""Known vulnerabilities of what is installed here, by pip-audit: part of `make check`.

Fails for one that a newer version mends; those without a remedy are listed and pass, so that a
check can be green again. pip-audit calls a package that it found nothing about "skipped" and is
content; where its data cannot be reached that is every package, and this says so instead.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

AUDIT = ["-m", "pip_audit", "--local", "--format", "json", "--progress-spinner", "off"]


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
    lines = [
        f"audit: {each['name']} {each['version']}: {vuln['id']}: "
        + (f"fixed in {', '.join(vuln['fix_versions'])}" if vuln["fix_versions"] else "no remedy")
        for each, vuln in found
    ]
    lines.append(
        f"audit: {len(audited)} of {len(dependencies)} packages audited, {len(found)} known "
        f"vulnerabilities, {len(remedied)} with a remedy"
    )
    return not remedied, lines


def main() -> int:
    """The process's exit status."""
    done = subprocess.run([sys.executable, *AUDIT], capture_output=True, text=True, check=False)
    try:
        dependencies = json.loads(done.stdout)["dependencies"]
    except ValueError:  # it stops with a traceback when the index cannot be reached at all
        why = (done.stderr.strip().splitlines() or ["no output"])[-1][:200]
        if "No module named" in why:
            print(f"audit: pip-audit is not installed ({why}); pip install -e '.[dev]'")
            return 1
        print(f"audit: nothing was audited: pip-audit could not reach its data ({why})")
        return 0
    passes, lines = report(dependencies)
    print("\n".join(lines))
    return 0 if passes else 1


if __name__ == "__main__":
    raise SystemExit(main())
