"""`rlaif report` writes the page into the run folder and prints where it is."""

from pathlib import Path

from typer.testing import CliRunner

from rlaif.cli.main import app
from tests.support.made_up_run import made_up_run


def test_the_command_writes_the_page_and_prints_its_path(tmp_path):
    run = made_up_run(tmp_path / ("a-long-folder-name-" * 6) / "[bold]", prompts=4)
    result = CliRunner().invoke(app, ["report", str(run)])
    assert result.exit_code == 0, result.output
    [line] = [line for line in result.output.splitlines() if line.endswith("report.html")]
    assert Path(line) == run / "report.html"
    assert "made-up sample run" in Path(line).read_text(encoding="utf-8")
