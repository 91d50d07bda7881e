"""Prompts: the ones that ship are what they claim, and other people's files are read or refused."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path

import pytest

from rlaif.data.prompts import load_prompts
from rlaif.data.records import Prompt, RecordError

SHIPPED = load_prompts("quickstart")


def lines(path: Path, *objects: object) -> Path:
    path.write_text("".join(json.dumps(o) + "\n" for o in objects), encoding="utf-8")
    return path


def words(prompt: Prompt) -> set[str]:
    text = " ".join(m.content for m in prompt.messages if m.role == "user")
    return set(re.findall(r"\w+", text.casefold()))


def test_there_are_enough_of_every_kind() -> None:
    kinds = Counter(prompt.kind for prompt in SHIPPED)
    least = {"everyday": 100, "support": 50, "borderline": 40, "harmful": 30}
    assert set(kinds) == set(least)
    assert all(kinds[kind] >= count for kind, count in least.items())
    assert sum(len(prompt.messages) > 1 for prompt in SHIPPED) >= 10


def test_no_topic_is_in_both_splits_and_every_kind_is() -> None:
    splits_of_topic, kinds_of_split = defaultdict(set), defaultdict(set)
    for prompt in SHIPPED:
        splits_of_topic[prompt.topic].add(prompt.split)
        kinds_of_split[prompt.split].add(prompt.kind)
    assert all(len(splits) == 1 for splits in splits_of_topic.values())
    assert set(kinds_of_split) == {"train", "heldout"}
    assert kinds_of_split["train"] == kinds_of_split["heldout"]
    share = sum(prompt.split == "heldout" for prompt in SHIPPED) / len(SHIPPED)
    assert 0.2 <= share <= 0.3


def test_any_beginning_of_a_split_is_a_mixture_of_kinds() -> None:
    for split in ("train", "heldout"):
        assert len({prompt.kind for prompt in load_prompts("quickstart", split)[:16]}) == 4


def test_ids_are_unique_and_texts_short() -> None:
    assert len({prompt.id for prompt in SHIPPED}) == len(SHIPPED)
    assert all(len(m.content.split()) <= 40 for prompt in SHIPPED for m in prompt.messages)


def test_no_two_prompts_say_nearly_the_same() -> None:
    for one, other in combinations(SHIPPED, 2):
        shared, all_words = words(one) & words(other), words(one) | words(other)
        assert len(shared) / len(all_words) < 0.6, (one.id, other.id)


def test_a_plain_prompt_is_one_user_turn_with_an_id_from_its_content(tmp_path: Path) -> None:
    plain = {"prompt": "Why is tea brown?", "source": "mine"}
    trl = {"prompt": [{"role": "user", "content": "Why is tea brown?"}], "chosen": "tannins"}
    (one,) = load_prompts(lines(tmp_path / "plain.jsonl", plain))
    (other,) = load_prompts(lines(tmp_path / "trl.jsonl", trl))
    assert one == other
    assert one.messages[0].content == "Why is tea brown?"
    assert len(one.id) == 16


def test_our_own_records_are_read_back_as_they_were(tmp_path: Path) -> None:
    path = lines(tmp_path / "own.jsonl", *(p.model_dump(mode="json") for p in SHIPPED[:20]))
    assert load_prompts(path) == SHIPPED[:20]


def test_a_broken_line_4711_is_named(tmp_path: Path) -> None:
    good = [json.dumps({"prompt": f"Question {n}?"}) for n in range(5000)]
    path = tmp_path / "many.jsonl"
    for broken in ('{"prompt": "cut o', "[1, 2]", '{"text": "no prompt"}', '{"prompt": "  "}'):
        path.write_text("\n".join([*good[:4710], broken, *good[4710:]]), encoding="utf-8")
        with pytest.raises(RecordError, match=r"many\.jsonl:4711: "):
            load_prompts(path)


def test_a_conversation_that_ends_with_the_assistant_is_refused(tmp_path: Path) -> None:
    turn = {"role": "assistant", "content": "Hello"}
    with pytest.raises(RecordError, match=r"p\.jsonl:1: .*last message must be the user's"):
        load_prompts(lines(tmp_path / "p.jsonl", {"prompt": [turn]}))


def test_the_second_line_with_an_id_is_refused(tmp_path: Path) -> None:
    path = lines(tmp_path / "p.jsonl", {"prompt": "Why?"}, {"prompt": "How?"}, {"prompt": "Why?"})
    with pytest.raises(RecordError, match=r"p\.jsonl:3: .* as line 1"):
        load_prompts(path)


def test_a_missing_file_an_empty_one_and_an_unknown_split_say_so(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"quikstart.*or a shipped set: quickstart"):
        load_prompts("quikstart")
    with pytest.raises(RecordError, match="no prompts in it"):
        load_prompts(lines(tmp_path / "empty.jsonl"))
    with pytest.raises(RecordError, match=r"no prompts of split 'test'; it has: heldout, train"):
        load_prompts("quickstart", "test")
