"""Distinct n-grams and self-BLEU, against numbers worked by hand."""

import math

import pytest

from rlaif.evaluation.diversity import distinct_n, self_bleu


def test_distinct_n_divides_distinct_n_grams_by_all():
    assert distinct_n(["a b a", "A b"], 1) == 2 / 5
    assert distinct_n(["a b a", "a b"], 2) == 2 / 3
    assert distinct_n(["one"], 2) is None


def test_self_bleu_is_one_for_equal_texts_and_zero_for_disjoint_ones():
    assert self_bleu(["all of it the same"] * 3) == [1.0, 1.0, 1.0]
    assert self_bleu(["a b c d", "e f g h"]) == [0.0, 0.0]


def test_self_bleu_matches_numbers_worked_by_hand():
    # a b c against a b d e. Words: 2 of 3. Pairs: 1 of 2, smoothed 2/3. Triples: 0 of 1, 1/2.
    # N = 3 words allow three orders; 3 words against 4: e^(1 - 4/3).
    first, second = self_bleu(["a b c", "a b d e"])
    assert first == pytest.approx(math.exp(-1 / 3) * (2 / 3 * 2 / 3 * 1 / 2) ** (1 / 3))
    # words 2 of 4, pairs 1 of 3 → 2/4, triples 0 of 2 → 1/3, fours 0 of 1 → 1/2; no penalty
    assert second == pytest.approx((1 / 2 * 1 / 2 * 1 / 3 * 1 / 2) ** (1 / 4))


def test_self_bleu_clips_a_word_to_its_highest_count_in_one_other_text():
    # "a a a": each other text has one a, so 1 of 3; pairs and triples match nowhere
    bleu = self_bleu(["a a a", "a b c", "a d e"])[0]
    assert bleu == pytest.approx((1 / 3 * 1 / 3 * 1 / 2) ** (1 / 3))


def test_self_bleu_skips_texts_without_words():
    assert self_bleu(["a b", "", "a b"]) == [1.0, None, 1.0]
    assert self_bleu(["a b", ""]) == [None, None]
