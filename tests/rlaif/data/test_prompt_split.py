"""Prompts without a split are split by their own text, the same in every command."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from rlaif.cli.main import app
from rlaif.data.prompt_split import (
    SplitRule,
    held_out,
    place,
    require_apart,
    require_splits_apart,
    text_of,
)
from rlaif.data.prompts import load_prompts, read_prompts
from rlaif.data.records import Prompt, RecordError
from rlaif.pipeline.context import RunContext
from rlaif.pipeline.graph import build_graph
from rlaif.pipeline.recipe import Recipe
from rlaif.pipeline.runner import digested

RULE = SplitRule()


def prompts(texts):
    turns = [({"role": "user", "content": text},) for text in texts]
    return [Prompt(id=f"p{n}", messages=messages) for n, messages in enumerate(turns)]


def plain(path, count, **fields):
    rows = [{"prompt": f"Question {n}?", **fields} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


texts = st.lists(st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip), min_size=1)
rules = st.builds(SplitRule, st.floats(0.01, 0.99), st.integers(0, 9))


# ── equal prompts on both sides ──────────────────────────────────────────────────────────────


def asked(*texts):
    return [(prompt.id, prompt.messages) for prompt in prompts(texts)]


def test_equal_prompts_under_other_ids_in_both_files_are_refused_and_counted():
    train, heldout = asked("Say a", "Say b", "say  A"), asked("Say c", "SAY A", "say b ")
    with pytest.raises(RecordError) as caught:
        require_apart(train, heldout)
    assert str(caught.value) == (
        "2 held-out records have prompts that are also trained on: 'p1' (held out) asks the same "
        "as 'p0', up to case and spacing; remove such prompts from one of the two, so that what "
        "is held out is new to the model"
    )
    with pytest.raises(RecordError, match=r"^1 held-out record has a prompt that is also trained"):
        require_apart(train, heldout[1:2])
    require_apart(train, heldout[:1])


def test_a_file_that_names_both_splits_for_one_prompt_trains_no_policy(tmp_path):
    rows = [("Say a", "train"), ("say  A", "test"), ("Say b", "train"), ("Say c", "other")]
    file = lines(tmp_path / "own.jsonl", *({"prompt": p, "split": s} for p, s in rows))
    with pytest.raises(RecordError, match=r"own.jsonl: 1 held-out record has a prompt that is "):
        require_splits_apart(read_prompts(file))
    require_splits_apart(read_prompts(lines(file, {"prompt": "Say a"}, {"prompt": "say a"})))


# ── the rule ─────────────────────────────────────────────────────────────────────────────────


@given(texts, rules)
def test_held_out_leaves_prompts_on_both_sides_where_there_are_two(texts, rule):
    every = {text_of(prompt) for prompt in prompts(texts)}
    heldout = held_out(prompts(texts), rule)
    assert heldout <= every
    if len(every) > 1:
        assert 0 < len(heldout) < len(every)
    else:
        assert not heldout


@given(texts, rules, st.randoms())
def test_held_out_does_not_depend_on_order_or_repetition(texts, rule, random):
    shuffled = random.sample(texts, len(texts)) + texts[:1]
    assert held_out(prompts(shuffled), rule) == held_out(prompts(texts), rule)


@given(st.integers(2, 80), st.integers(0, 9))
def test_held_out_is_never_far_from_its_share(count, seed):
    heldout = held_out(prompts(f"Question {n}?" for n in range(count)), SplitRule(seed=seed))
    assert max(1, int(0.1 * count)) <= len(heldout) <= 0.3 * count + 1


@given(st.integers(2, 80), st.integers(0, 9))
def test_adding_a_prompt_moves_one_other_at_most(count, seed):
    found, rule = prompts(f"Question {n}?" for n in range(count + 1)), SplitRule(seed=seed)
    before, after = held_out(found[:-1], rule), held_out(found, rule)
    assert len(before ^ (after - {text_of(found[-1])})) <= 1


def test_adding_prompts_to_a_file_that_is_not_small_moves_none():
    found = prompts(f"Question {n}?" for n in range(400))
    before, after = held_out(found[:200], RULE), held_out(found, RULE)
    assert {text_of(prompt) for prompt in found[:200]} & after == before


def test_a_larger_share_only_adds_to_what_is_held_out():
    found = prompts(f"Question {n}?" for n in range(200))
    small, large = held_out(found, SplitRule(0.2)), held_out(found, SplitRule(0.3))
    assert small < large
    assert len(small) == pytest.approx(40, abs=17)  # three standard deviations
    assert held_out(found, SplitRule(0.2, seed=1)) != small


def test_the_rule_gives_the_same_split_in_years_to_come():
    found = {text_of(prompt) for prompt in prompts(f"Question {n}?" for n in range(12))}
    assert {f'[["user", "question {n}?"]]' for n in range(12)} == found
    assert place('[["user", "question 0?"]]', 0) == pytest.approx(0.282661963559093)


# ── files ────────────────────────────────────────────────────────────────────────────────────


def test_equal_texts_under_different_ids_are_on_one_side(tmp_path):
    rows = [{"prompt": f"Question {n % 20}?" + " " * (n // 20), "id": f"p{n}"} for n in range(60)]
    found = read_prompts(lines(tmp_path / "p.jsonl", *rows)).prompts
    sides = {}
    for prompt in found:
        sides.setdefault(text_of(prompt), set()).add(prompt.split)
    assert len(sides) == 20
    assert all(len(each) == 1 for each in sides.values())


def test_a_file_without_splits_has_both_and_says_how(tmp_path):
    path = plain(tmp_path / "own.jsonl", 50)
    known = read_prompts(path)
    train, heldout = known.of("train"), known.of("heldout")
    assert len(train) + len(heldout) == 50
    assert 0 < len(heldout) < 25
    assert load_prompts(path, "heldout") == heldout
    description = known.describe()
    assert f"{len(train)} prompts to train on, {len(heldout)} held out" in description
    for word in ("heldout_share=0.2", "split_seed=0", '"split": "heldout"'):
        assert word in description


def test_two_prompts_are_one_on_each_side_and_one_prompt_cannot_be_split(tmp_path):
    known = read_prompts(plain(tmp_path / "two.jsonl", 2))
    assert (len(known.of("train")), len(known.of("heldout"))) == (1, 1)
    one = read_prompts(plain(tmp_path / "one.jsonl", 1))
    assert len(one.of(None)) == len(one.of("train")) == 1
    with pytest.raises(RecordError, match=r"one\.jsonl: cannot hold out .* add other prompts, or"):
        one.of("heldout")


@pytest.mark.parametrize("name", ["heldout", "held-out", "validation", "Test", "eval", "dev"])
def test_names_that_others_use_count_as_held_out(tmp_path, name):
    path = lines(
        tmp_path / "p.jsonl",
        {"prompt": "Why?", "split": "train"},
        {"prompt": "How?", "split": name},
    )
    known = read_prompts(path)
    assert known.rule is None
    assert [p.messages[0].content for p in known.of("heldout")] == ["How?"]
    assert [p.messages[0].content for p in known.of("train")] == ["Why?"]
    assert known.of(name)[0].split == name
    assert f"{name} 1" in known.describe()


def test_a_line_without_a_split_beside_lines_with_one_is_trained_on(tmp_path):
    rows = [{"prompt": "Why?"}, {"prompt": "How?", "split": "heldout"}, {"prompt": "Who?"}]
    known = read_prompts(lines(tmp_path / "p.jsonl", *rows))
    assert len(known.of("train")) == 2


@pytest.mark.parametrize(
    ("named", "asked"), [("train", "heldout"), ("heldout", "train"), ("fold-3", "heldout")]
)
def test_a_file_that_names_one_side_only_says_what_to_do(tmp_path, named, asked):
    known = read_prompts(plain(tmp_path / "p.jsonl", 5, split=named))
    with pytest.raises(RecordError, match=rf"no prompts of split '{asked}'; it has: {named}; give"):
        known.of(asked)


def test_an_empty_split_is_none(tmp_path):
    rows = [{"prompt": f"Question {n}?", "split": ""} for n in range(5)]
    assert read_prompts(lines(tmp_path / "p.jsonl", *rows)).rule == RULE


# ── commands ─────────────────────────────────────────────────────────────────────────────────


def test_run_dry_run_shows_the_split_and_counts_what_stages_use(tmp_path):
    path = plain(tmp_path / "own.jsonl", 30)
    known = read_prompts(path)
    found = CliRunner().invoke(
        app, ["run", "quickstart", f"prompts={path}", "--dry-run", "--out", str(tmp_path / "run")]
    )
    assert found.exit_code == 0, found.output
    assert known.describe() in found.output
    assert f"answers {len(known.of('train'))} prompts" in found.output
    assert f"answer {len(known.of('heldout'))} held-out prompts" in found.output


def test_run_takes_share_and_seed_from_the_recipe_and_redoes_what_they_change(tmp_path):
    path = plain(tmp_path / "own.jsonl", 40)

    def digests(*settings):
        recipe = Recipe.load("quickstart", [f"prompts={path}", *settings])
        work, graph = RunContext(recipe, tmp_path / "run"), build_graph(recipe, tmp_path / "run")
        return {stage.name: digested(stage, work) for stage in graph.stages}

    plain_run, reseeded = digests(), digests("split_seed=1")
    assert plain_run == digests()
    for stage in ("samples", "ppo", "responses", "dpo"):
        assert plain_run[stage] != reseeded[stage]
    assert plain_run["labels"] == reseeded["labels"]  # until its samples change
    half = RunContext(
        Recipe.load("quickstart", [f"prompts={path}", "heldout_share=0.5"]), Path("x")
    )
    assert len(half.prompts("heldout")) > len(read_prompts(path).of("heldout"))


def test_sample_and_train_use_the_same_split_and_say_so(tmp_path, monkeypatch):
    path, drawn = plain(tmp_path / "own.jsonl", 30), []
    monkeypatch.setattr("rlaif.models.catalog.resolve", lambda name: name)
    monkeypatch.setattr(
        "rlaif.generation.offline.sample", lambda m, found, *_: drawn.append(found) or []
    )
    command = ["sample", str(path), "--model", "m", "--out", str(tmp_path / "s.jsonl")]
    found = CliRunner().invoke(app, [*command, "--split", "heldout"])
    assert found.exit_code == 0, found.output
    assert "No line names a split" in found.stderr
    assert drawn == [load_prompts(path, "heldout")]
    assert "No line names" not in CliRunner().invoke(app, command).output
    train = ["train", "ppo", str(path), "--model", "m", "--reward", "judge:127.0.0.1:1"]
    found = CliRunner().invoke(app, [*train, "--dry-run"])
    assert found.exit_code == 0, found.output
    assert f"{30 - len(drawn[0])} prompts;" in found.output
    assert "No line names a split" in found.stderr
