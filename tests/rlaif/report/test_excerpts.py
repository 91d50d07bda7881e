"""What of a long file is shown: at most MOST_ROWS records, extremes among them."""

from rlaif.report.excerpts import (
    EXTREMES,
    MOST_ROWS,
    chosen_labels,
    evenly_spaced,
    excerpt,
    prompts_that_fit,
)


def test_evenly_spaced_places_begin_at_the_first_and_never_exceed_the_limit():
    assert evenly_spaced(3, 5) == [0, 1, 2]
    assert evenly_spaced(10, 5) == [0, 2, 4, 6, 8]
    assert evenly_spaced(7, 3) == [0, 2, 4]
    assert evenly_spaced(0, 5) == []


def test_all_labels_are_chosen_up_to_the_limit():
    assert chosen_labels([0.7] * MOST_ROWS) == list(range(MOST_ROWS))


def test_of_many_labels_the_least_and_the_most_certain_ones_are_among_the_chosen():
    probs = [0.6 + place / 1e6 for place in range(10_000)]
    least, most = range(4001, 4001 + EXTREMES), range(7001, 7001 + EXTREMES)
    for place in least:
        probs[place] = 0.5
    for place in most:
        probs[place] = 1.0
    chosen = chosen_labels(probs)
    assert MOST_ROWS - 2 * EXTREMES < len(chosen) <= MOST_ROWS
    assert chosen == sorted(chosen)
    assert set(least) <= set(chosen)
    assert set(most) <= set(chosen)
    assert len([place for place in chosen if place < 4000]) > 100  # and some from everywhere


def test_the_responses_to_the_shown_prompts_fit_in_the_limit():
    assert len(prompts_that_fit(400, 4)) == MOST_ROWS // 4
    assert len(prompts_that_fit(10, 4)) == 10
    assert len(prompts_that_fit(10, MOST_ROWS * 2)) == 1


def test_an_excerpt_counts_what_it_leaves_out():
    assert excerpt("abcde", 3).text == "abc"
    assert excerpt("abcde", 3).left_out == 2
    assert excerpt("abc", 3).left_out == 0
