"""rlaif.evaluate until settled, with human verdicts, and all with all."""

from __future__ import annotations

import json

import pytest

import rlaif
from rlaif.data.records import HumanVerdict, RecordError
from rlaif.evaluation.anytime import StopRuleError
from rlaif.evaluation.comparison import NOT_ASKED
from rlaif.evaluation.policies import EvaluationResult
from tests.rlaif.api.test_judging import responses
from tests.support.feedback.labeled import judge


def policies(count=4):
    start = responses("no", count=count)
    return {
        "dpo": responses("yes indeed", count=count),
        "ppo": responses("yes", count=count),
    }, start


def test_evaluate_stops_when_the_interval_is_narrow_enough(tmp_path):
    trained, start = policies(100)
    server = judge()
    result = rlaif.evaluate(trained, start=start, server=server, out=tmp_path, until=0.6)
    dpo = result.policies[1]
    assert dpo.unjudged[NOT_ASKED] == 100 - dpo.win_rate.n > 0
    assert dpo.win_rate.high - dpo.win_rate.low <= 0.6
    assert EvaluationResult.load(tmp_path / "evaluation.json") == result


def test_evaluate_pairs_human_verdicts_from_a_file_with_the_judges(tmp_path):
    trained, start = policies()
    rows = [
        {"policy": "dpo", "prompt": f"q{n}", "verdict": "better", "response": f"yes indeed q{n}"}
        for n in range(2)
    ]
    file = tmp_path / "human.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = rlaif.evaluate(trained, start=start, server=judge(), out=tmp_path / "e", human=file)
    assert set(result.human) == {"dpo"}
    assert (result.human["dpo"].human.value, result.human["dpo"].judge_only) == (1.0, 2)
    assert EvaluationResult.load(tmp_path / "e" / "evaluation.json") == result
    in_memory = [HumanVerdict.model_validate(row) for row in rows]
    again = rlaif.evaluate(
        trained, start=start, server=judge(), out=tmp_path / "f", human=in_memory
    )
    assert again.human == result.human


def test_evaluate_gives_the_strengths_of_a_round_robin_and_reads_nothing_twice(tmp_path):
    trained, start = policies()
    server = judge()
    result = rlaif.evaluate(trained, start=start, server=server, out=tmp_path, round_robin=True)
    assert {row.name for row in result.strengths.policies} == {"start", "dpo", "ppo"}
    assert EvaluationResult.load(tmp_path / "evaluation.json") == result
    journal = (tmp_path / "answers.journal.jsonl").read_text().splitlines()
    assert len(journal) == 3 * 4, "three pairs of policies on four prompts"


VERDICT = {"policy": "dpo", "prompt": "q0", "verdict": "better"}


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"until": "soon"}, StopRuleError, "invalid until: 'soon'; write settled"),
        ({"until": "settled", "round_robin": True}, StopRuleError, "exclude each other"),
        ({"until": 0.2, "human": [VERDICT]}, StopRuleError, "until and human exclude each other"),
        ({"human": "missing.jsonl"}, RecordError, "missing.jsonl: no such file"),
        ({"human": [VERDICT | {"policy": "sft"}]}, RecordError, "unknown policy; expected dpo"),
        ({"human": [VERDICT | {"verdict": "good"}]}, RecordError, "'better', 'worse' or 'tie'"),
        ({"human": 3}, RecordError, "human: expected a file or a list of records: int 3"),
    ],
)
def test_evaluate_refuses_before_it_connects(given, error, message, monkeypatch):
    monkeypatch.setattr(
        "rlaif.feedback.client.judge_client", lambda *_, **__: pytest.fail("a server was started")
    )
    trained, start = policies()
    with pytest.raises(error, match=message):
        rlaif.evaluate(trained, start=start, server="127.0.0.1:1", **given)
