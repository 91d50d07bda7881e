"""Schemas of public benchmarks of judges and reward models, as gold questions.

reward_bench    arXiv:2403.13787: prompt, chosen, rejected, chosen_model, rejected_model, subset
reward_bench_2  arXiv:2506.01937: prompt, chosen and rejected (lists), num_correct, subset. The
                right responses come first. Ids of the subset Ties are "ref:N" (one right answer)
                and "tied:N" (several)
rm_bench        arXiv:2410.16184: prompt, chosen and rejected (three styles each: concise, detailed,
                detailed with Markdown), domain. The right responses come first, in this order
judge_bench     arXiv:2410.12784: question, response_A, response_B, label, source
hhh             arXiv:2112.00861: input, and targets (choices, labels) or target_scores (response to
                1 or 0), the shapes of HuggingFaceH4/hhh_alignment and of BIG-bench
llmbar          arXiv:2310.07641: input, output_1, output_2, label (1 or 2)
pandalm         arXiv:2306.05087: instruction, input, response1, response2, annotator1 to 3 (1, 2,
                0 for a tie): the majority's; left out where that is a tie or all three differ
xstest          arXiv:2308.01263: prompt, type, completion, final_label, one completion to a row. A
                complete answer is right to a safe prompt, a full refusal to an unsafe one (type
                begins with "contrast_"); partial refusals are left out, and so are prompts without
                both kinds of completion. XSTest's prompts alone hold nothing to judge
pairs           any preferences that rlaif/data/formats reads: prompt, chosen, rejected; the group
                is the column category, subset, group or domain

A row whose responses are empty or identical is left out and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from constitution.schema import Message
from rlaif.data.formats import FORMATS
from rlaif.data.formats import recognized as recognized_data
from rlaif.data.formats.base import Fields, LeftOut, optional_text, text, wrong
from rlaif.data.formats.pairs import transcript
from rlaif.data.records import Preference, RecordError
from rlaif.gold_sets.record import GoldQuestion, as_messages, prompt_id

Rows = Iterable[tuple[str, Fields]]
Found = Iterator[GoldQuestion | LeftOut]

_GROUP_COLUMNS = ("category", "subset", "group", "domain")
_JUDGE_BENCH = {"mmlu": "knowledge", "reasoning": "reasoning", "math": "math", "code": "coding"}
_COMPLIES, _REFUSES = "1_full_compliance", "2_full_refusal"


@dataclass(frozen=True, slots=True)
class GoldFormat:
    """A schema: `recognize` by the fields of the first row; `read` rows of a file, in order."""

    recognize: Callable[[Fields], bool]
    read: Callable[[Rows, Path], Found]


def recognized(fields: Fields) -> str:
    """The name of the schema of a file, from its first row; "" if none fits."""
    return next((name for name, each in GOLD_FORMATS.items() if each.recognize(fields)), "")


# ── reading ──────────────────────────────────────────────────────────────────────────────────


def _question(
    prompt: str | Iterable[Message], responses: Iterable[str], right: Iterable[int], *,
    group: str, source: str, id: Any = None,
) -> GoldQuestion | LeftOut:  # fmt: skip
    messages = as_messages(prompt if isinstance(prompt, str) else tuple(prompt))
    texts, correct = tuple(responses), frozenset(right)
    if not all(each.strip() for each in texts):
        return LeftOut("an empty response")
    of_right = {texts[i].strip() for i in correct}
    of_wrong = {each.strip() for i, each in enumerate(texts) if i not in correct}
    if of_right & of_wrong:
        return LeftOut("identical responses")
    name = "" if id is None else str(id)
    return GoldQuestion(prompt_id(messages), messages, texts, correct, group, source, name)


def _group(fields: Fields, where: str) -> str:
    return next((v for name in _GROUP_COLUMNS if (v := optional_text(fields, name, where))), "")


def _preferences(source: str, group: Callable[[Fields, str], str]) -> Callable[[Rows, Path], Found]:
    """Rows that a format of rlaif/data/formats reads one by one."""
    data_format = FORMATS["trl" if source == "pairs" else source]

    def read(rows: Rows, path: Path) -> Found:
        for where, fields in rows:
            for each in data_format.convert([(where, fields)]):
                yield _of_preference(each, group(fields, where), source, fields.get("id"), where)

    return read


def _of_preference(
    each: Any, group: str, source: str, id: Any, where: str
) -> GoldQuestion | LeftOut:
    if isinstance(each, LeftOut):
        return each
    if not isinstance(each, Preference):
        raise RecordError(f"{where}: not a pair; a gold question has prompt, chosen and rejected")
    if each.prob_chosen == 0.5:
        return LeftOut("a tie")
    right = 0 if each.prob_chosen > 0.5 else 1
    texts = (each.chosen_text, each.rejected_text)
    return _question(each.prompt, texts, (right,), group=group, source=source, id=id)


def _any_pairs(rows: Rows, path: Path) -> Found:
    rows = iter(rows)
    where, fields = next(rows)
    name = recognized_data(fields)
    again = _with_first((where, fields), rows)
    if name in ("", "trl"):
        yield from _preferences("pairs", _group)(again, path)
        return
    for each in FORMATS[name].convert(again):
        yield _of_preference(each, "", "pairs", getattr(each, "id", None), str(path))


def _with_first(first: tuple[str, Fields], rest: Rows) -> Iterator[tuple[str, Fields]]:
    yield first
    yield from rest


def _lists(source: str, column: str) -> Callable[[Rows, Path], Found]:
    """Rows whose `chosen` and `rejected` are lists: the right responses first."""

    def read(rows: Rows, path: Path) -> Found:
        for where, fields in rows:
            chosen, rejected = (_texts(fields, name, where) for name in ("chosen", "rejected"))
            if source == "rm_bench" and (len(chosen), len(rejected)) != (3, 3):
                found = f"{len(chosen)} and {len(rejected)}"
                raise RecordError(
                    f"{where}: chosen, rejected: three styles each are expected (found {found}); "
                    "correct or delete this line"
                )
            right = fields.get("num_correct")
            if right is not None and right != len(chosen):
                raise wrong(where, "num_correct", f"{len(chosen)} (as many as chosen has)", right)
            yield _question(
                text(fields, "prompt", where), (*chosen, *rejected), range(len(chosen)),
                group=optional_text(fields, column, where), source=source, id=fields.get("id"),
            )  # fmt: skip

    return read


def _texts(fields: Fields, name: str, where: str) -> list[str]:
    value = fields.get(name)
    if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
        return value
    raise wrong(where, name, "a list of texts", value)


def _judge_bench_group(fields: Fields, where: str) -> str:
    """The four categories of the leaderboard, from the data set that a question is from."""
    source = optional_text(fields, "source", where)
    return next((group for part, group in _JUDGE_BENCH.items() if part in source), source)


def _hhh(rows: Rows, path: Path) -> Found:
    for where, fields in rows:
        prompt = text(fields, "input", where)
        if prompt.lstrip().startswith("Human:"):
            turns = transcript(prompt, "input", where)
            messages = tuple(Message.model_validate(turn) for turn in turns)
        else:
            messages = as_messages(prompt)
        choices, labels = _choices(fields, where)
        right = [i for i, label in enumerate(labels) if label]
        if not 0 < len(right) < len(choices):
            yield LeftOut("no better response")
            continue
        yield _question(
            messages, choices, right, group=_group(fields, where) or _folder_name(path),
            source="hhh", id=fields.get("id"),
        )  # fmt: skip


def _choices(fields: Fields, where: str) -> tuple[list[str], list[float]]:
    match fields.get("targets"), fields.get("target_scores"):
        case {"choices": [*choices], "labels": [*labels]}, _ if len(choices) == len(labels):
            pass
        case _, Mapping() as scores:
            choices, labels = list(scores), list(scores.values())
        case targets, _:
            raise wrong(where, "targets", "choices and as many labels", targets)
    if not all(isinstance(each, str) for each in choices) or not all(n in (0, 1) for n in labels):
        raise wrong(
            where, "targets", "texts with labels 0 or 1", dict(zip(choices, labels, strict=True))
        )
    return choices, labels


def _folder_name(path: Path) -> str:
    """LLMBar's and BIG-bench's files are named alike, in a folder of the subset's name."""
    return path.resolve().parent.name if path.stem in ("dataset", "task") else path.stem


def _llmbar(rows: Rows, path: Path) -> Found:
    for where, fields in rows:
        texts = [text(fields, f"output_{n}", where) for n in (1, 2)]
        label = fields.get("label")
        if isinstance(label, bool) or label not in (1, 2):
            raise wrong(where, "label", "1 or 2", label)
        yield _question(
            text(fields, "input", where), texts, (int(label) - 1,),
            group=_group(fields, where) or _folder_name(path), source="llmbar", id=fields.get("id"),
        )  # fmt: skip


def _pandalm(rows: Rows, path: Path) -> Found:
    for where, fields in rows:
        votes = Counter[int]()
        for n in (1, 2, 3):
            vote = fields.get(f"annotator{n}")
            if isinstance(vote, bool) or vote not in (0, 1, 2):
                raise wrong(where, f"annotator{n}", "0, 1 or 2", vote)
            votes[int(vote)] += 1
        majority, count = votes.most_common(1)[0]
        if majority == 0 or count == 1:
            yield LeftOut("a tie" if count > 1 else "no majority")
            continue
        instruction, given = text(fields, "instruction", where), fields.get("input")
        # Missing inputs are written as NaN in the published file.
        prompt = f"{instruction}\n\n{given}" if isinstance(given, str) and given else instruction
        yield _question(
            prompt, [text(fields, f"response{n}", where) for n in (1, 2)], (majority - 1,),
            group=optional_text(fields, "motivation_app", where), source="pandalm",
            id=fields.get("idx"),
        )  # fmt: skip


def _xstest(rows: Rows, path: Path) -> Found:
    completions: dict[str, dict[str, list[str]]] = {}
    types: dict[str, str] = {}
    for where, fields in rows:
        if "completion" not in fields:
            raise RecordError(
                f"{where}: completion: missing; XSTest's prompts alone hold nothing to judge: give "
                "its labeled completions (columns completion and final_label), or RewardBench's "
                "subsets xstest-should-respond and xstest-should-refuse"
            )
        label = text(fields, "final_label", where)
        if label not in (_COMPLIES, _REFUSES):
            yield LeftOut("a partial refusal")
            continue
        prompt = text(fields, "prompt", where)
        types[prompt] = text(fields, "type", where)
        by_label = completions.setdefault(prompt, {_COMPLIES: [], _REFUSES: []})
        by_label[label].append(text(fields, "completion", where))
    for prompt, by_label in completions.items():
        unsafe = types[prompt].startswith("contrast_")
        right, rest = by_label[_REFUSES], by_label[_COMPLIES]
        if not unsafe:
            right, rest = rest, right
        if not right or not rest:
            yield LeftOut("a prompt without both an answer and a refusal")
            continue
        group = "should refuse" if unsafe else "should respond"
        texts = (*right, *rest)
        yield _question(prompt, texts, range(len(right)), group=group, source="xstest")


def _has(*names: str) -> Callable[[Fields], bool]:
    return lambda fields: all(name in fields for name in names)


GOLD_FORMATS: dict[str, GoldFormat] = {
    "reward_bench": GoldFormat(
        FORMATS["reward_bench"].recognize, _preferences("reward_bench", _group)
    ),
    "reward_bench_2": GoldFormat(
        FORMATS["reward_bench_2"].recognize, _lists("reward_bench_2", "subset")
    ),
    "rm_bench": GoldFormat(
        lambda fields: FORMATS["rm_bench"].recognize(fields) and "domain" in fields,
        _lists("rm_bench", "domain"),
    ),
    "judge_bench": GoldFormat(
        FORMATS["judge_bench"].recognize, _preferences("judge_bench", _judge_bench_group)
    ),
    "hhh": GoldFormat(
        lambda fields: (
            "input" in fields and ("targets" in fields or "target_scores" in fields)
        ),
        _hhh,
    ),
    "llmbar": GoldFormat(_has("input", "output_1", "output_2", "label"), _llmbar),
    "pandalm": GoldFormat(_has("instruction", "response1", "response2", "annotator1"), _pandalm),
    "xstest": GoldFormat(
        lambda fields: (
            _has("prompt", "completion", "final_label")(fields)
            or ({"prompt", "label"} <= fields.keys() and fields["label"] in ("safe", "unsafe")
                and "response" not in fields)
        ),
        _xstest,
    ),
    "pairs": GoldFormat(lambda fields: bool(recognized_data(fields)), _any_pairs),
}  # fmt: skip
"""In the order of recognition: `pairs`, the most general, is the last."""
