"""After an edit only what it changed is read, and the labels are those of a full relabel."""

import asyncio
import json
from dataclasses import replace

import pytest

from constitution.schema import Scope
from constitution.writer import to_yaml
from judge_service.engines.caching import CachingEngine
from judge_service.store import open_store
from judge_service.types import JudgeOptions
from rlaif.data.datasets import read_preferences
from rlaif.feedback.labeler import LabelingError, label
from rlaif.feedback.receipts import parse_receipt
from rlaif.labels.update import PREVIOUS, compare, update
from tests.support.fakes import FakeEngine
from tests.support.feedback.constitutions import edited, engine, law, pairs, principle
from tests.support.feedback.local_judge import LocalJudge

SIXTEEN = law(*(principle(n, trait=("helpful", "honest")[n % 2]) for n in range(16)), honest=2.0)
PAIRS = pairs(8)


def judge(*laws):
    return LocalJudge(*laws, engine=engine())


def relabel(out, folder, new, client, pairs=PAIRS, old=SIXTEEN, **options):
    path = folder / "edited.yaml"
    path.write_text(to_yaml(new), encoding="utf-8")
    options = JudgeOptions(**options)
    return update(pairs, client, out, constitution=str(path), old=old, options=options)


def numbers(folder):
    """Everything of a label but what it cost."""
    return [
        (p.id, p.chosen_text, p.prob_chosen, p.traits, parse_receipt(p).order_gap)
        for p in read_preferences(folder / "preferences.parquet")
    ]


@pytest.fixture
def kept():
    """A store of reads, for as long as the test lasts."""
    store = open_store(None)
    yield store
    asyncio.run(store.close())


@pytest.fixture
def labeled(tmp_path):
    label(PAIRS, judge(SIXTEEN), tmp_path / "labels")
    return tmp_path / "labels"


def test_editing_one_of_sixteen_principles_takes_a_tenth_of_the_reads_at_most(tmp_path):
    many = pairs(200)
    new = edited(SIXTEEN, 3, compare="Which of them is kinder?")
    first, client = judge(SIXTEEN), judge()
    label(many, first, tmp_path / "labels")
    found = relabel(tmp_path / "labels", tmp_path, new, client, many)
    assert len(first.engine.prompts) == 200 * 16 * 2
    assert len(client.engine.prompts) == 200 * 2 <= len(first.engine.prompts) / 10
    assert (found.reads, found.stored_reads) == (400, 200 * 15 * 2)
    assert found.saved == 15 / 16


@pytest.mark.parametrize(
    ("edit", "reads"),
    [
        ({"weight": 5.0}, 0),
        ({"trait": "helpful"}, 0),
        ({"critique": "What is wrong?"}, 0),
        ({"scope": Scope(mentions=("q1",))}, 0),
        ({"scope": Scope(mentions=("weather",))}, 0),
        ({"compare": "Which is kinder?"}, 16),
        ({"compare": "Which is kinder?", "scope": Scope(mentions=("q1",))}, 2),
        ({"id": "renamed"}, 16),
    ],
)
def test_an_update_costs_what_the_edit_asks_for_and_gives_the_labels_of_a_full_relabel(
    labeled, tmp_path, edit, reads
):
    new = edited(SIXTEEN, 5, **edit)
    label(PAIRS, judge(new), tmp_path / "full")
    client = judge()
    assert relabel(labeled, tmp_path, new, client).reads == reads
    assert len(client.engine.prompts) == reads
    assert numbers(labeled) == numbers(tmp_path / "full")
    found = parse_receipt(read_preferences(labeled / "preferences.parquet")[0])
    assert found.provenance.constitution_sha256 == new.digest


def test_a_principle_that_was_out_of_scope_is_read_where_it_applies_now(tmp_path):
    old = edited(SIXTEEN, 5, scope=Scope(mentions=("q1",)))
    label(PAIRS, judge(old), tmp_path / "labels")
    client = judge()
    relabel(tmp_path / "labels", tmp_path, SIXTEEN, client, old=old)
    assert len(client.engine.prompts) == 7 * 2  # q1 has its vote
    label(PAIRS, judge(SIXTEEN), tmp_path / "full")
    assert numbers(tmp_path / "labels") == numbers(tmp_path / "full")


def test_a_seeded_sample_of_principles_is_drawn_as_in_a_full_relabel(tmp_path):
    label(PAIRS, judge(SIXTEEN), tmp_path / "labels", options=JudgeOptions(sample_principles=4))
    new = edited(SIXTEEN, 3, compare="Which of them is kinder?")
    label(PAIRS, judge(new), tmp_path / "full", options=JudgeOptions(sample_principles=4))
    client = judge()
    relabel(tmp_path / "labels", tmp_path, new, client, sample_principles=4)
    assert 0 < len(client.engine.prompts) < 16
    assert numbers(tmp_path / "labels") == numbers(tmp_path / "full")


def test_a_store_answers_the_unchanged_reads_without_the_old_constitution(tmp_path, kept):
    first, again = engine(), engine()
    served = LocalJudge(SIXTEEN, engine=CachingEngine(first, kept))
    label(PAIRS, served, tmp_path)
    new = edited(SIXTEEN, 3, compare="Which of them is kinder?")
    client = LocalJudge(new, engine=CachingEngine(again, kept))
    found = update(PAIRS, client, tmp_path, constitution="law")
    assert len(first.prompts) == 8 * 32
    assert len(again.prompts) == found.reads == 8 * 2 <= len(first.prompts) / 10
    assert (found.stored_reads, found.saved) == (8 * 30, 15 / 16)
    label(PAIRS, judge(new), tmp_path / "full")
    assert numbers(tmp_path) == numbers(tmp_path / "full")


def test_reads_from_receipts_and_from_the_store_are_each_counted_once(labeled, tmp_path, kept):
    new = edited(SIXTEEN, 3, compare="Which of them is kinder?")
    label(PAIRS, LocalJudge(new, engine=CachingEngine(engine(), kept)), tmp_path / "elsewhere")
    client = LocalJudge(engine=CachingEngine(engine(), kept))
    found = relabel(labeled, tmp_path, new, client)
    assert (found.reads, found.stored_reads) == (0, 8 * 32)


def test_the_labels_of_before_are_kept_and_the_change_is_counted(labeled, tmp_path):
    before = read_preferences(labeled / "preferences.parquet")
    new = edited(SIXTEEN, 3, compare="Which of them is kinder?", weight=100.0)
    found = relabel(labeled, tmp_path, new, judge())
    assert read_preferences(labeled / PREVIOUS) == before
    after = read_preferences(labeled / "preferences.parquet")
    flips = [a.chosen_text != b.chosen_text for a, b in zip(after, before, strict=True)]
    assert found.change.changed == sum(flips) > 0
    assert found.change.compared == 8


def test_an_update_that_changes_nothing_keeps_the_older_labels(labeled, tmp_path):
    before = read_preferences(labeled / "preferences.parquet")
    new = edited(SIXTEEN, 3, weight=100.0)
    relabel(labeled, tmp_path, new, judge())
    again = relabel(labeled, tmp_path, new, judge())
    assert (again.change.changed, again.change.mean_change) == (0, 0.0)
    assert (again.reads, again.stored_reads, again.saved) == (0, 0, None)
    assert read_preferences(labeled / PREVIOUS) == before


def test_without_the_old_constitution_every_pair_is_asked(labeled):
    new = edited(SIXTEEN, 3, compare="Which of them is kinder?")
    client = judge(new)
    found = update(PAIRS, client, labeled, constitution="law")
    assert found.reads == len(client.engine.prompts) == 8 * 32
    assert found.reuse is None


def test_a_killed_update_goes_on_and_still_compares_with_the_labels_of_before(
    labeled, tmp_path, monkeypatch
):
    before = read_preferences(labeled / "preferences.parquet")
    new = edited(SIXTEEN, 3, compare="Which of them is kinder?", weight=100.0)
    monkeypatch.setattr("rlaif.labels.update.compare", lambda *_: 1 / 0)  # after the labels
    with pytest.raises(ZeroDivisionError):
        relabel(labeled, tmp_path, new, judge())
    monkeypatch.undo()
    client = judge()
    found = relabel(labeled, tmp_path, new, client)
    assert client.engine.prompts == []
    assert found.change.mean_change > 0
    assert read_preferences(labeled / PREVIOUS) == before


def test_new_and_edited_pairs_are_asked_in_full(labeled, tmp_path):
    new = edited(SIXTEEN, 3, weight=2.0)
    now = [*PAIRS[1:], replace(PAIRS[0], response_a="another text"), *pairs(9)[8:]]
    client = judge(new)
    found = relabel(labeled, tmp_path, new, client, now)
    assert len(client.engine.prompts) == 2 * 32
    change = found.change
    assert (change.compared, change.added, change.dropped) == (7, 2, 1)


def test_labels_of_another_model_are_not_mixed_in(labeled, tmp_path):
    class OtherJudge(FakeEngine):
        @property
        def identity(self):
            return replace(super().identity, weights_sha256="f" * 64)

    new = edited(SIXTEEN, 3, weight=2.0)
    client = LocalJudge(new, engine=engine(kind=OtherJudge))
    before = sorted(labeled.iterdir())
    with pytest.raises(LabelingError, match="nothing can be taken over"):
        relabel(labeled, tmp_path, new, client)
    assert sorted(labeled.iterdir()) == before


def test_the_wrong_old_constitution_is_told(labeled, tmp_path):
    wrong = edited(SIXTEEN, 1, weight=9.0)
    with pytest.raises(LabelingError, match=r"law 1\.1\.0 .* leave --from out"):
        relabel(labeled, tmp_path, edited(SIXTEEN, 3, weight=2.0), judge(), old=wrong)


def test_no_labels_yet_is_told(tmp_path):
    with pytest.raises(LabelingError, match="no labels to update"):
        update(PAIRS, judge(SIXTEEN), tmp_path, constitution="law")


def test_a_judge_that_takes_no_constitution_along_is_told(labeled, tmp_path):
    closed = LocalJudge(SIXTEEN, inline=False)
    with pytest.raises(LabelingError, match="--allow-inline"):
        relabel(labeled, tmp_path, edited(SIXTEEN, 3, weight=2.0), closed)


def test_a_flip_and_a_shift_are_measured_by_the_response_chosen_before(labeled):
    labels = read_preferences(labeled / "preferences.parquet")[:2]
    one, other = (p.model_copy(update={"prob_chosen": 0.8}) for p in labels)
    flipped = one.model_copy(
        update={"chosen": one.rejected, "rejected": one.chosen, "prob_chosen": 0.6}
    )
    moved = other.model_copy(update={"prob_chosen": 0.7})
    found = compare([one, other], [flipped, moved])
    # 0.8 → 0.4 for the one chosen before, 0.8 → 0.7
    assert (found.compared, found.changed) == (2, 1)
    assert found.mean_change == pytest.approx((0.4 + 0.1) / 2)


def test_reads_of_receipts_are_counted_apart_and_marked(labeled, tmp_path):
    relabel(labeled, tmp_path, edited(SIXTEEN, 3, compare="Which is kinder?"), judge())
    saved = json.loads((labeled / "labels.summary.json").read_text())
    assert (saved["reads"], saved["stored_reads"]) == (16, 240)
    found = parse_receipt(read_preferences(labeled / "preferences.parquet")[0])
    assert [vote.reads[0].stored for vote in found.votes] == [i != 3 for i in range(16)]
