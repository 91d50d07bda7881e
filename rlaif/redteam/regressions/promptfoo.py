"""promptfoo's test cases in YAML, read and written.

    - description: direct-fraud-1a2b3c4d              the id
      vars: {prompt: "…"}                             the conversation as JSON, if it has more turns
      assert: [{type: is-refusal}]                    of a twin: not-is-refusal
      metadata: {family: direct, strategyId: direct, topic: fraud}

A file is such a list, which promptfoo takes as `tests: file://regressions.yaml` beside the prompt
`{{prompt}}`, or a whole configuration with a list under `tests`. Read are `is-refusal`,
`not-is-refusal` and `promptfoo:redteam:…` (a refusal is expected); other assertions are not
checked, and cases without one of these are left out, both with their number on stderr. The prompt
is the variable `prompt`, that of `redteam.injectVar`, or the only one.

promptfoo takes {{…}} and {%…%} in a variable for a template: a text with either is refused when it
is written, and left out when it is read. A receipt has no place in such a file.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import TypeAdapter, ValidationError

from constitution.schema import Message
from rlaif.data.records import Prompt, RecordError
from rlaif.data.rows import read_text
from rlaif.evaluation.rules.refusals import HARMFUL
from rlaif.feedback.revisions.summary import BORDERLINE
from rlaif.plain_yaml import load_yaml
from rlaif.redteam.regressions.records import Regression

REFUSES, ANSWERS, RED_TEAM = "is-refusal", "not-is-refusal", "promptfoo:redteam:"
VARIABLE = "prompt"
_TEMPLATES = ("{{", "{%", "{#")
_MESSAGES = TypeAdapter(tuple[Message, ...])


class _LeftOutError(Exception):
    """Why a case is no regression test of ours."""


def promptfoo_yaml(tests: Sequence[Regression]) -> str:
    """The tests as a list of promptfoo's cases. Raises RecordError for a text it would not keep."""
    cases = []
    for test in tests:
        text = _written(test.prompt.messages)
        if any(mark in text for mark in _TEMPLATES):
            raise RecordError(
                f"test {test.id}: its text has {{{{ or {{%, which promptfoo takes for a template; "
                "write .jsonl in place of .yaml, or delete it"
            )
        metadata = {"family": test.family, "strategyId": test.strategy, "topic": test.topic}
        cases.append(
            {
                "description": test.id,
                "vars": {VARIABLE: text},
                "assert": [{"type": REFUSES if test.expects == "refusal" else ANSWERS}],
                "metadata": {key: value for key, value in metadata.items() if value},
            }
        )
    return yaml.safe_dump(cases, allow_unicode=True, sort_keys=False, width=100)


def read_promptfoo(path: Path) -> list[Regression]:
    """The cases of a file that can be checked here. Raises RecordError for a file of another kind;
    what was left out is counted in a line on stderr."""
    try:
        data = load_yaml(read_text(path))
    except yaml.YAMLError as error:
        raise RecordError(f"{path}: not YAML; give a list of test cases") from error
    whole = data if isinstance(data, dict) else {"tests": data}
    cases = whole.get("tests")
    if isinstance(cases, str):
        raise RecordError(f"{path}: its tests are in another file; give that one: {cases}")
    if not isinstance(cases, list):
        raise RecordError(f"{path}: expected a list of test cases, or a list under the key tests")
    left_out: Counter[str] = Counter()
    found: list[Regression] = []
    names: Counter[str] = Counter()
    for number, case in enumerate(cases, start=1):
        try:
            test = _regression(case, number, whole, left_out)
        except _LeftOutError as why:
            left_out[f"cases {why}"] += 1
            continue
        names[test.id] += 1
        if names[test.id] > 1:  # descriptions need not differ
            test = test.model_copy(update={"id": f"{test.id}#{names[test.id]}"})
        found.append(test)
    if left_out:
        reasons = ", ".join(f"{n} {reason}" for reason, n in left_out.most_common())
        print(f"{path}: {len(found)} tests; left out {reasons}", file=sys.stderr)
    return found


def _regression(
    case: Any, number: int, whole: dict[str, Any], left_out: Counter[str]
) -> Regression:  # fmt: skip
    if not isinstance(case, dict):
        raise _LeftOutError("that are no mapping")
    expects, others = _expected(case, whole)
    messages = _messages(_text(case, whole))
    if others:
        left_out["assertions of other types"] += others
    facts = case.get("metadata")
    metadata = facts if isinstance(facts, dict) else {}
    name = str(case.get("description") or f"test-{number}")
    family = metadata.get("family") or metadata.get("strategyId") or metadata.get("pluginId")
    topic = str(metadata.get("topic") or metadata.get("pluginId") or "")
    kind = HARMFUL if expects == "refusal" else BORDERLINE
    return Regression(
        id=name,
        family=str(family or "promptfoo"),
        strategy=str(metadata.get("strategyId") or ""),
        topic=topic,
        expects=expects,
        prompt=Prompt(id=name, messages=messages, topic=topic, kind=kind),
    )


def _expected(
    case: dict[str, Any], whole: dict[str, Any]
) -> tuple[Literal["refusal", "answer"], int]:
    """What is expected of a response, and how many assertions of other types the case has."""
    default = whole.get("defaultTest")
    both = [case, default if isinstance(default, dict) else {}]
    given = [each for part in both for each in part.get("assert") or [] if isinstance(each, dict)]
    types = [str(each.get("type", "")) for each in given]
    refusal = [t for t in types if t == REFUSES or t.startswith(RED_TEAM)]
    answer = [t for t in types if t == ANSWERS]
    if bool(refusal) == bool(answer):
        raise _LeftOutError(f"without one of {REFUSES}, {ANSWERS}, {RED_TEAM}…")
    others = len(types) - len(refusal) - len(answer)
    return ("refusal" if refusal else "answer"), others


def _text(case: dict[str, Any], whole: dict[str, Any]) -> str:
    variables = case.get("vars")
    values = variables if isinstance(variables, dict) else {}
    own = whole.get("redteam")
    named = own.get("injectVar") if isinstance(own, dict) else None
    name = next((n for n in (named, VARIABLE) if isinstance(n, str) and n in values), None)
    if name is None and len(values) == 1:
        (name,) = values
    text = values.get(name) if name is not None else None
    if not isinstance(text, str) or not text.strip():
        raise _LeftOutError(f"without a text in the variable {VARIABLE}")
    if any(mark in text for mark in _TEMPLATES):
        raise _LeftOutError("whose text is a template")
    return text


def _messages(text: str) -> tuple[Message, ...]:
    """The conversation that a text stands for: JSON of one, or one turn of the user."""
    if text.lstrip().startswith("["):
        try:
            messages = _MESSAGES.validate_json(text)
        except ValidationError:
            messages = ()
        if messages and messages[-1].role == "user" and messages[-1].content.strip():
            return messages
    return (Message(role="user", content=text),)


def _written(messages: Sequence[Message]) -> str:
    if len(messages) == 1 and not messages[0].content.lstrip().startswith("["):
        return messages[0].content
    return json.dumps([message.model_dump() for message in messages], ensure_ascii=False)
