"""Floors: the accuracy that needs no judge, only surface features of the responses.

    random     an unbiased coin: its expected credit, exactly (of the subset Ties, over seeded
               draws of scores)
    longer     the longer response, in characters
    surface    logistic regression on the features below
    words      logistic regression on a bag of words: log(1 + count) of the words in the fewest
               responses or more, each response's counts scaled to length 1

For a right response r and a wrong one w of a question, with features f and d = f(r) - f(w):

    P(r is better) = sigmoid(b·d)       no intercept: swapping the responses swaps the answer
    b minimizes  Σ (1 / pairs of the question) log(1 + exp(-b·d)) + ridge/2 |b|²

Of the surface, columns of d are divided by their root mean square, so that one ridge fits all. Both
fits (rlaif/evaluation/logistic.py) are cross-validated by prompt, so no question is predicted by a
fit that has seen its prompt; or fitted once on questions of another file, without prompts that are
asked here too.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from rlaif.evaluation.clustered import folds_by_prompt
from rlaif.evaluation.logistic import Floats, ridge_logistic
from rlaif.evaluation.rules.refusals import refuses
from rlaif.gold_sets.answers import TIES, GoldAnswer, from_scores
from rlaif.gold_sets.questions import GoldQuestion

FOLDS = 5
FEWEST_PROMPTS = 10  # with fewer, a fit has nothing to be trained on
FEWEST_RESPONSES = 2  # that a word of the bag occurs in
MOST_WORDS = 1000  # the most frequent ones; more hardly help and cost their square
RIDGE = 1.0
_DRAWS = 1000  # of scores, for the subset Ties

Features = Callable[[Sequence[str]], Floats]
"""Responses → a row of features each (N, K)."""

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_SENTENCE_END = re.compile(r"[.!?](?:\s|$)|\n+")
_LIST_ITEM = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s", re.MULTILINE)

SURFACE: Mapping[str, Callable[[str], float]] = {
    "log length": lambda text: math.log(max(len(text), 1)),
    "sentences": lambda text: math.log1p(len(_SENTENCE_END.findall(text))),
    "mean word length": lambda text: (
        fmean(map(len, _WORD.findall(text)) or [0.0]) if _WORD.search(text) else 0.0
    ),
    "digits": lambda text: math.log1p(sum(c.isdigit() for c in text)),
    "list items": lambda text: math.log1p(len(_LIST_ITEM.findall(text))),
    "question marks": lambda text: math.log1p(text.count("?")),
    "exclamation marks": lambda text: math.log1p(text.count("!")),
    "emphasis": lambda text: math.log1p(text.count("**") + text.count("`") + text.count("#")),
    "first person": lambda text: math.log1p(len(re.findall(r"\bI\b", text))),
    "refusal": lambda text: float(refuses(text)),
}
"""Name → feature of a response."""


@dataclass(frozen=True, slots=True)
class Floor:
    """A floor's answers in the order of the questions; None for random, which has credits alone."""

    name: str
    credits: tuple[float, ...]
    answers: tuple[GoldAnswer, ...] | None = None


def floors(
    questions: Sequence[GoldQuestion],
    seed: int = 0,
    train: Sequence[GoldQuestion] | None = None,
) -> list[Floor]:
    """Every floor that can be computed; fits need at least 10 prompts.

    train: questions of another file to fit on, in place of cross-validation.
    """
    found = [_random(questions), _of_answers("longer", longer(questions))]
    for name, features in (("surface", surface_features), ("words", None)):
        answers = _fitted(questions, features, seed, train)
        if answers is not None:
            found.append(_of_answers(name, answers))
    return found


def _of_answers(name: str, answers: Sequence[GoldAnswer]) -> Floor:
    return Floor(name, tuple(answer.credit for answer in answers), tuple(answers))


def longer(questions: Sequence[GoldQuestion]) -> list[GoldAnswer]:
    """Gaps are ln(length of the right one / length of the wrong one), lengths in characters."""
    return [from_scores(q, [math.log(max(len(t), 1)) for t in q.responses]) for q in questions]


# ── random ───────────────────────────────────────────────────────────────────────────────────


def _random(questions: Sequence[GoldQuestion]) -> Floor:
    return Floor("random", tuple(map(random_credit, questions)))


def random_credit(question: GoldQuestion) -> float:
    """The expected credit of an answer whose ranking of the responses is a uniform draw.

    Of two responses, and as the mean over pairs, ½. For reward_bench_2 all k right ones are on top
    of n with probability 1 / C(n, k): ¼ for the best of four.
    """
    if question.source != "reward_bench_2":
        return 0.5
    return 1 / math.comb(len(question.responses), len(question.right))


def random_ties(questions: Sequence[GoldQuestion], score: Callable[..., float]) -> float:
    """The expected score of random scores on the subset Ties, over 1000 seeded draws."""
    ties = [question for question in questions if question.group == TIES]
    draw = random.Random(0)
    return fmean(
        score([from_scores(q, [draw.random() for _ in q.responses]) for q in ties])
        for _ in range(_DRAWS)
    )


# ── fits ─────────────────────────────────────────────────────────────────────────────────────


def surface_features(responses: Sequence[str]) -> Floats:
    """The features of SURFACE: (N, 10)."""
    return np.array([[f(text) for f in SURFACE.values()] for text in responses], dtype=float)


def word_features(training: Sequence[str]) -> Features:
    """Bags of the words of these responses; unknown words are not counted."""
    seen = Counter(word for text in training for word in set(_words(text)))
    frequent = [w for w, n in seen.most_common(MOST_WORDS) if n >= FEWEST_RESPONSES]
    index = {word: place for place, word in enumerate(frequent)}

    def features(responses: Sequence[str]) -> Floats:
        bags = np.zeros((len(responses), len(index)))
        for row, text in enumerate(responses):
            for word, count in Counter(_words(text)).items():
                if word in index:
                    bags[row, index[word]] = math.log1p(count)
        norms = np.linalg.norm(bags, axis=1, keepdims=True)
        return np.asarray(bags / np.where(norms == 0, 1.0, norms))

    return features


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _fitted(
    questions: Sequence[GoldQuestion],
    features: Features | None,
    seed: int,
    train: Sequence[GoldQuestion] | None,
) -> list[GoldAnswer] | None:
    """Answers by fits; features: None for a bag of words, whose words come from the training."""
    asked = {question.prompt_id for question in questions}
    if train is not None:
        others = [question for question in train if question.prompt_id not in asked]
        if len({question.prompt_id for question in others}) < FEWEST_PROMPTS:
            return None
        return _predict(others, questions, features)
    if len(asked) < FEWEST_PROMPTS:
        return None
    fold_of = folds_by_prompt([question.prompt_id for question in questions], FOLDS, seed)
    answers: dict[int, GoldAnswer] = {}
    for fold in range(FOLDS):
        places = [i for i, other in enumerate(fold_of) if other == fold]
        rest = [q for q, other in zip(questions, fold_of, strict=True) if other != fold]
        predicted = _predict(rest, [questions[i] for i in places], features)
        answers.update(zip(places, predicted, strict=True))
    return [answers[i] for i in range(len(questions))]


def _predict(
    training: Sequence[GoldQuestion],
    questions: Sequence[GoldQuestion],
    features: Features | None,
) -> list[GoldAnswer]:
    texts = [text for question in training for text in question.responses]
    of = features or word_features(texts)
    differences, weights = _differences(training, of(texts))
    scale = np.ones(differences.shape[1])
    if features is not None:  # bags of words have a common scale already
        scale = np.sqrt((differences**2).mean(axis=0))
        scale[scale == 0] = 1.0
    right = np.ones(len(differences))
    fitted = ridge_logistic(differences / scale, right, weights, RIDGE) / scale
    found = []
    for question in questions:
        scores = of(question.responses) @ fitted
        # Equal up to rounding is equal: without a feature of the fit a pair is a tie.
        found.append(from_scores(question, [round(float(score), 9) for score in scores]))
    return found


def _differences(questions: Sequence[GoldQuestion], rows: Floats) -> tuple[Floats, Floats]:
    """d of every pair (P, K), and its weight (P,). rows: features of all responses, in order."""
    right, wrong, weights, first = [], [], [], 0
    for question in questions:
        for r, w in question.pairs:
            right.append(first + r)
            wrong.append(first + w)
            weights.append(1 / len(question.pairs))
        first += len(question.responses)
    return rows[right] - rows[wrong], np.array(weights)
