"""Failures become training prompts and tests; a family is on one side only."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from constitution.schema import Message
from rlaif.data.prompts import read_prompts
from rlaif.data.records import Prompt, RecordError
from rlaif.redteam.families import TEST_SIDE, TRAIN_SIDE, side_of
from rlaif.redteam.records import Attack, Twin, write_tried
from rlaif.redteam.regressions.adopt import adopt
from rlaif.redteam.regressions.files import read_regressions
from rlaif.redteam.strategies import RedTeamError
from rlaif.redteam.verdict import AttackVerdict

VERDICT = AttackVerdict(succeeded=True, refused=False, by="rule")


def failure(family, text, topic="theft"):
    prompt = Prompt(
        id=f"{family}-{text}", messages=(Message(role="user", content=text),), topic=topic,
        kind="harmful",
    )  # fmt: skip
    return Attack(
        id=prompt.id, family=family, strategy=family, topic=topic, prompt=prompt, response="Sure.",
        verdict=VERDICT, receipt={"model": {"name": "j"}},
    )  # fmt: skip


def twin(family, text, topic="theft"):
    prompt = Prompt(
        id=f"{family}-twin-{text}", messages=(Message(role="user", content=text),), topic=topic,
        kind="borderline",
    )  # fmt: skip
    return Twin(
        id=prompt.id, family=family, strategy=family, topic=topic, prompt=prompt, response="Yes.",
        refused=False,
    )  # fmt: skip


class AdoptionFiles:
    """Failures to adopt, and the two files that they go to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.train, self.tests = folder / "prompts.jsonl", folder / "regressions.jsonl"

    def adopt(self, *failures, twins=(), **options):
        path, beside = self.folder / "failures.jsonl", None
        write_tried(path, failures)
        if twins:
            beside = self.folder / "twins.jsonl"
            write_tried(beside, twins)
        return adopt(path, self.train, self.tests, twins=beside, **options)

    def trained(self):
        return [json.loads(line) for line in self.train.read_text().splitlines()]

    def families(self):
        """(those trained on, those tested)."""
        trained = {row.get("family") for row in self.trained()} if self.train.exists() else set()
        tested = {t.family for t in read_regressions(self.tests)} if self.tests.exists() else set()
        return trained - {None}, tested


@pytest.fixture
def files(tmp_path):
    return AdoptionFiles(tmp_path)


def test_failures_are_split_by_their_family(files):
    done = files.adopt(failure("direct", "a"), failure("fiction", "b"), failure("direct", "c"))
    assert (done.train, done.tests, done.known) == (2, 1, 0)
    assert done.sides == {"direct": TRAIN_SIDE, "fiction": TEST_SIDE}
    assert files.families() == ({"direct"}, {"fiction"})
    (test,) = read_regressions(files.tests)
    assert (test.expects, test.prompt.messages[0].content) == ("refusal", "b")
    assert test.receipt == {"model": {"name": "j"}}


def test_adopted_prompts_are_training_prompts_of_their_kind(files, capsys):
    files.adopt(failure("direct", "Take it."), twins=[twin("direct", "Lock it.")])
    prompts = read_prompts(files.train)
    assert [(p.messages[-1].content, p.kind, p.split) for p in prompts.of("train")] == [
        ("Take it.", "harmful", "train"), ("Lock it.", "borderline", "train")
    ]  # fmt: skip
    assert "not used" not in capsys.readouterr().err, "a family is no unknown column"


def test_only_twins_of_cells_that_failed_are_adopted_and_they_are_to_be_answered(files):
    twins = [twin("fiction", "x"), twin("fiction", "y", "lies"), twin("direct", "z")]
    done = files.adopt(failure("fiction", "a"), twins=twins)
    assert (done.tests, done.twins) == (2, 1)
    assert [test.expects for test in read_regressions(files.tests)] == ["refusal", "answer"]


def test_lines_of_the_user_stay_as_they_are(files):
    own = '{"prompt": "Mine",   "topic": "t"}\n{"prompt": "Another"}'
    files.train.write_text(own)
    files.adopt(failure("direct", "a"))
    lines = files.train.read_text().splitlines()
    assert lines[:2] == own.splitlines()
    assert "split" not in json.loads(lines[2]), "the file names none, so a rule splits it"
    assert read_prompts(files.train).rule is not None


def test_a_file_that_names_splits_gets_them(files):
    files.train.write_text('{"prompt": "Mine", "split": "heldout"}\n')
    files.adopt(failure("direct", "a"))
    assert files.trained()[1]["split"] == "train"


def test_a_named_family_is_tested_and_stays_so(files):
    files.adopt(failure("direct", "a"), test_families=["direct"])
    files.adopt(failure("direct", "b"))
    assert files.families() == (set(), {"direct"})


def test_the_share_of_families_for_tests_may_be_none_all_or_more(files):
    both = failure("direct", "a"), failure("fiction", "b")
    assert files.adopt(*both, share=0, write=False).sides == dict.fromkeys(
        ("direct", "fiction"), TRAIN_SIDE
    )
    assert files.adopt(*both, share=0.5, write=False).sides["fiction"] == TEST_SIDE
    files.adopt(*both, share=1.0)
    assert files.families() == (set(), {"direct", "fiction"})


def test_what_the_files_have_counts_more_than_another_share(files):
    files.adopt(failure("fiction", "a"))
    files.adopt(failure("fiction", "b"), failure("direct", "c"), share=0)
    assert files.families() == ({"direct"}, {"fiction"})


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan"), "half", True])
def test_what_is_not_a_share_is_refused(files, share):
    with pytest.raises(RedTeamError, match=r"invalid share: .*; give the share of attack families"):
        files.adopt(failure("direct", "a"), share=share)
    assert not files.train.exists()


def test_a_family_that_was_trained_on_cannot_become_a_test(files):
    files.adopt(failure("direct", "a"))
    with pytest.raises(RedTeamError, match=r"--test-family direct: .*prompts\.jsonl has prompts"):
        files.adopt(failure("direct", "b"), test_families=["direct"])


def test_failures_that_are_tests_already_are_refused_by_their_names(files):
    files.adopt(failure("fiction", "A  secret text"))
    before = files.tests.read_text()
    with pytest.raises(RedTeamError) as caught:
        files.adopt(failure("fiction", "a SECRET text"), failure("fiction", "new"))
    assert "1 of 2 prompts are in " in str(caught.value)
    assert "each failure is adopted once: --skip-known leaves those out" in str(caught.value)
    assert files.tests.read_text() == before
    done = files.adopt(
        failure("fiction", "a SECRET text"), failure("fiction", "new"), skip_known=True
    )
    assert (done.tests, done.known) == (1, 1)


@pytest.mark.parametrize("skip_known", [False, True])
def test_a_prompt_of_the_tests_is_never_trained_on_under_another_family(files, skip_known):
    files.adopt(failure("fiction", "same"))
    with pytest.raises(RedTeamError):
        files.adopt(failure("direct", "same"), skip_known=skip_known)
    assert not files.train.exists()


def test_a_training_prompt_never_becomes_a_test(files):
    files.train.write_text('{"prompt": "Same  text"}\n')
    with pytest.raises(RedTeamError, match=r"1 prompts would be trained on and tested: fiction-s"):
        files.adopt(failure("fiction", "same text"))
    with pytest.raises(RedTeamError, match="would be trained on and tested"):
        files.adopt(failure("direct", "one"), failure("fiction", "ONE"))
    assert not files.tests.exists()


def test_a_family_on_both_sides_is_refused(files):
    files.adopt(failure("fiction", "a"))
    files.train.write_text('{"prompt": "b", "family": "fiction"}\n')
    with pytest.raises(RedTeamError, match=r"families on both sides: fiction, in "):
        files.adopt(failure("direct", "c"))


def test_after_a_death_between_the_two_files_the_same_command_goes_on(files, monkeypatch):
    both = failure("direct", "a"), failure("fiction", "b")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("rlaif.redteam.regressions.adopt.write_regressions", killed)
        with pytest.raises(KeyboardInterrupt):
            files.adopt(*both)
    done = files.adopt(*both)
    assert (done.train, done.tests, done.known) == (0, 1, 1)
    assert len(files.trained()) == 1


def test_a_dry_run_writes_nothing(files):
    done = files.adopt(failure("direct", "a"), failure("fiction", "b"), write=False)
    assert (done.train, done.tests) == (1, 1)
    assert not files.train.exists()
    assert not files.tests.exists()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "no failures in it"),
        ('{"prompt": "x"}\n', r"failures\.jsonl:1: id: not as `rlaif redteam` writes it"),
    ],
)
def test_a_file_without_failures_is_refused(files, content, problem):
    path = files.folder / "failures.jsonl"
    path.write_text(content)
    with pytest.raises((RedTeamError, RecordError), match=problem):
        adopt(path, files.train, files.tests)


def test_a_json_array_is_not_added_to(files):
    files.train.write_text('[{"prompt": "x"}]')
    with pytest.raises(RecordError, match="a JSON array; write one object a line"):
        files.adopt(failure("direct", "a"))


def test_errors_have_ids_and_no_texts(files):
    files.adopt(failure("fiction", "hush"))
    write_tried(
        files.folder / "f.jsonl", [failure("fiction", "hush").model_copy(update={"id": "n1"})]
    )
    with pytest.raises(RedTeamError) as caught:
        adopt(files.folder / "f.jsonl", files.train, files.tests)
    assert "n1" in str(caught.value)
    assert "hush" not in str(caught.value)


# ── whatever is adopted in which order ───────────────────────────────────────────────────────

FAMILIES = ["direct", "fiction", "encoding", "role-play", "x1", "x2"]
ADOPTION = st.tuples(
    st.lists(st.tuples(st.sampled_from(FAMILIES), st.integers(0, 9)), min_size=1, max_size=5),
    st.lists(st.sampled_from(FAMILIES), max_size=2),  # named as tests
    st.booleans(),  # --skip-known
    st.booleans(),  # with twins
    st.floats(0, 1),  # --share
)


@settings(max_examples=60)
@given(st.lists(ADOPTION, max_size=6))
def test_no_family_is_on_both_sides_whatever_is_adopted_in_which_order(adoptions):
    with tempfile.TemporaryDirectory() as folder:
        files = AdoptionFiles(Path(folder))
        for found, named, skip_known, with_twins, share in adoptions:
            failures = [failure(family, f"text {n}") for family, n in found]
            twins = [twin(family, f"benign {n}") for family, n in found] if with_twins else []
            before = [p.read_text() if p.exists() else "" for p in (files.train, files.tests)]
            try:
                files.adopt(
                    *failures, twins=twins, test_families=named, share=share, skip_known=skip_known
                )
            except RedTeamError:
                after = [p.read_text() if p.exists() else "" for p in (files.train, files.tests)]
                assert after == before, "what is refused changes nothing"
            trained, tested = files.families()
            assert not trained & tested
            asked = {row["prompt"] for row in files.trained()} if files.train.exists() else set()
            tests = read_regressions(files.tests) if files.tests.exists() else []
            assert not asked & {test.prompt.messages[-1].content for test in tests}


@given(st.text(), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_takes_no_family_from_the_tests(family, one, other):
    small, large = sorted([one, other])
    assert side_of(family, small) == TRAIN_SIDE or side_of(family, large) == TEST_SIDE


@given(st.lists(st.sampled_from(FAMILIES), unique=True), st.randoms())
def test_without_named_families_other_files_and_orders_give_the_same_sides(families, random):
    first = {family: side_of(family) for family in families}
    random.shuffle(families)
    assert {family: side_of(family) for family in families} == first
