"""Making pages of the report in tests, and reading them."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

from rlaif.report.inputs import ReportInputs, StageFolder
from rlaif.report.page import write_report


def render(run: Path) -> str:
    return write_report(run, run / "report.html").read_text(encoding="utf-8")


def section(html: str, anchor: str) -> str:
    """The HTML of one section."""
    return next(part for part in html.split("<section>") if f'id="{anchor}"' in part)


def text_of(html: str) -> str:
    return " ".join(re.sub("<[^>]*>", " ", html.replace("<wbr>", "")).split())


def one_stage(folder: Path, kind: str, name: str = "stage") -> ReportInputs:
    (folder / name).mkdir(exist_ok=True)
    return ReportInputs({}, (StageFolder(name, kind, folder / name),))


def write_rows(folder: Path, rows) -> None:
    (folder / "stage").mkdir(exist_ok=True)
    (folder / "stage" / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))


def edit_evaluation(run: Path, change) -> None:
    path = run / "evaluation" / "evaluation.json"
    saved = json.loads(path.read_text())
    change(saved)
    path.write_text(json.dumps(saved))


class PageParser(HTMLParser):
    """Tags in order and the text between them; fails on tags that do not close."""

    VOID = frozenset({"meta", "br", "link", "img", "input", "wbr"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
