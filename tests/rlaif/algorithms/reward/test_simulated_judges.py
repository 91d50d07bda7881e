"""Reward models trained on simulated judges of one, three and five traits.

A response is one letter per trait, which says how good it is by that trait, from 0 to 4. A
principle reads P(A) = sigmoid(sharpness · (level of A - level of B)), and labels are made of the
reads as a judge makes them. The labels' entropy is the lowest NLL that any model can reach.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev

import pytest
import torch

from constitution.schema import Constitution, Message, Trait
from judge_service.types import Comparison
from rlaif.algorithms.reward.config import RewardConfig
from rlaif.algorithms.reward.train import train
from rlaif.data.records import Preference
from rlaif.evaluation.reward_models import RewardEvaluation
from rlaif.feedback.receipts import preference
from rlaif.models.reward.weights import reweigh
from rlaif.models.reward_model import RewardModel, ScoredResponse
from tests.support.feedback.builders import judged, make_constitution, principle

SHARPNESS = {"sharp": 1.0, "dull": 0.5}
TRAIN, HELD_OUT = 700, 300

# A trait's weight in the label is its own times its principles' sum.
ONE = make_constitution(principle("dull", trait="helpful"))
THREE = make_constitution(
    principle("dull-a", trait="helpful", weight=2.0),
    principle("sharp-a", trait="helpful", weight=2.0),
    principle("sharp-b", trait="honest"),
    principle("dull-c", trait="kind", weight=0.5),
    honest=1.5,
)
FIVE = make_constitution(
    principle("dull-a", trait="helpful", weight=2.0),
    principle("sharp-a", trait="helpful", weight=2.0),
    principle("sharp-b", trait="honest"),
    principle("dull-c", trait="kind", weight=0.5),
    principle("dull-d", trait="safe", weight=1.5),
    principle("dull-e", trait="brief", weight=0.5),
    safe=2.0,
)


def pairs_of(by: Constitution, count: int, seed: int) -> list[Preference]:
    """Labeled pairs of random responses, which differ."""
    draw, traits = random.Random(seed), sorted(by.traits)
    labels = []
    for number in range(count):
        a = b = {trait: draw.randrange(5) for trait in traits}
        while b == a:
            b = {trait: draw.randrange(5) for trait in traits}
        # The judge's preference for the first position cancels between the two orders.
        reads = {}
        for rule in by.principles:
            sharpness = SHARPNESS[rule.id.split("-")[0]]
            prob = 1 / (1 + math.exp(-sharpness * (a[rule.trait] - b[rule.trait])))
            shift = 0.5 * min(prob, 1 - prob)
            reads[rule.id] = (prob + shift, prob - shift)
        text_a, text_b = (
            "".join(chr(ord("A") + 5 * place + one[t]) for place, t in enumerate(traits))
            for one in (a, b)
        )
        asked = (Message(role="user", content="Q?"),)
        pair = Comparison(f"{seed}-{number}", asked, text_a, text_b)
        labels.append(preference(pair, judged(by, reads)))
    return labels


@dataclass(frozen=True)
class Trained:
    """A reward model trained on labels by a constitution, with held-out pairs."""

    by: Constitution
    base: str
    folder: Path
    pairs: list[Preference]
    heldout: list[Preference]

    def scores(self, pairs: Sequence[Preference]) -> list[tuple[ScoredResponse, ScoredResponse]]:
        """(of the chosen, of the rejected response) of each pair."""
        model = RewardModel.load(self.base, self.folder)
        asked = [p.prompt for p in pairs]
        chosen = model.score(asked, [p.chosen_text for p in pairs])
        rejected = model.score(asked, [p.rejected_text for p in pairs])
        return list(zip(chosen, rejected, strict=True))

    def agreement(
        self, score: Callable[[ScoredResponse], float], labels: Sequence[Preference] | None = None
    ) -> float:
        """The share of held-out pairs whose label's side the score's difference is on.

        labels: other labels of the same pairs.
        """
        sides = {p.id: (p.chosen_text, p.prob_chosen) for p in labels or self.heldout}
        right = []
        for pair, (chosen, rejected) in zip(self.heldout, self.scores(self.heldout), strict=True):
            best, prob = sides[pair.id]
            if prob != 0.5:
                right.append((score(chosen) > score(rejected)) == (best == pair.chosen_text))
        return fmean(right)


@pytest.fixture(scope="module", params=[ONE, THREE, FIVE], ids=["one", "three", "five"])
def trained(
    request: pytest.FixtureRequest, tiny_model: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Trained]:
    """A whole tiny model trained on labels by each constitution."""
    by: Constitution = request.param
    out = tmp_path_factory.mktemp("reward")
    pairs, heldout = pairs_of(by, TRAIN, 1), pairs_of(by, HELD_OUT, 2)
    config = RewardConfig(
        dtype="float32", lora=None, epochs=6, batch_size=16, learning_rate=3e-3, max_tokens=200,
        micro_batch_tokens=100_000, checkpoint_every=100_000,
    )  # fmt: skip
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as one_thread of conftest.py, which comes after this fixture
    train(config, tiny_model, pairs, out, by.label_weights, heldout)
    yield Trained(by, tiny_model, out, pairs, heldout)
    torch.set_num_threads(threads)


def test_the_held_out_nll_is_nearly_the_entropy_of_the_labels(trained: Trained) -> None:
    found = RewardEvaluation.load(trained.folder / "evaluation.json")
    assert 0 <= found.nll - found.label_entropy < 0.01
    assert found.label_entropy < 0.68  # the labels say something: log 2 = 0.693
    assert found.traits.keys() == trained.by.traits.keys()
    assert all(m.nll - m.label_entropy < 0.02 for m in found.traits.values())


def test_every_score_has_a_standard_deviation_of_one_on_the_training_responses(
    trained: Trained,
) -> None:
    scores = [score for both in trained.scores(trained.pairs) for score in both]
    assert pstdev(s.overall for s in scores) == pytest.approx(1, abs=0.05)
    assert fmean(s.overall for s in scores) == pytest.approx(0, abs=0.05)
    for trait in trained.by.traits:
        assert pstdev(s.traits[trait] for s in scores) == pytest.approx(1, abs=0.05)


def test_it_agrees_with_the_label_more_often_than_traits_weighed_without_their_principles(
    trained: Trained,
) -> None:
    alone = trained.by.trait_weights

    def by_traits(score: ScoredResponse) -> float:
        """The score before there was a head on the label: each trait's by its own weight."""
        return sum(alone[trait] * value for trait, value in score.traits.items())

    agreement = trained.agreement(lambda score: score.overall)
    before = trained.agreement(by_traits)
    if len(alone) == 1:
        assert agreement == before == 1
    else:
        assert agreement > 0.9
        assert agreement > before + 0.05


def test_new_weights_follow_the_label_of_a_constitution_with_these_weights(
    trained: Trained,
) -> None:
    if len(trained.by.traits) == 1:  # its weight cancels out
        assert reweigh(trained.folder, {"helpful": 20.0}).by_label
        return
    # As if the constitution gave "kind", the lightest trait, twenty times its weight.
    traits = trained.by.traits | {"kind": Trait(weight=20.0)}
    edited = trained.by.model_copy(update={"traits": traits})
    labels = pairs_of(edited, HELD_OUT, 2)
    before = (trained.folder / "reward.json").read_bytes()
    as_labeled = trained.agreement(lambda score: score.overall, labels)

    weighing = reweigh(trained.folder, edited.label_weights)
    try:
        assert not weighing.by_label
        assert trained.agreement(lambda score: score.overall, labels) > max(0.9, as_labeled + 0.1)
        scores = [score for both in trained.scores(trained.pairs) for score in both]
        assert pstdev(s.overall for s in scores) == pytest.approx(1, abs=0.05)
    finally:
        (trained.folder / "reward.json").write_bytes(before)
