"""Plots: everything that is drawn lies inside the picture, and words are beside it."""

import re
from xml.etree import ElementTree

import pytest

from rlaif.evaluation.intervals import Estimate
from rlaif.evaluation.reward_models import ConfidenceBin
from rlaif.report import figures


def shapes(svg, tag):
    return [e for e in ElementTree.fromstring(svg).iter() if e.tag == tag]


def polyline(svg, style):
    line = next(e for e in shapes(svg, "polyline") if e.get("class") == style)
    return [tuple(map(float, place.split(","))) for place in line.get("points").split()]


def spread(places):
    heights = [y for _, y in places]
    return max(heights) - min(heights)


def within(svg):
    """The horizontal extent of every text, from its anchor and length, and of every dot."""
    for text in shapes(svg, "text"):
        width = len(text.text) * figures.CHARACTER
        start = float(text.get("x")) - width * {"end": 1, "middle": 0.5}[text.get("text-anchor")]
        assert 0 <= start <= start + width <= figures.WIDTH, text.text
        assert 0 < float(text.get("y")) < figures.HEIGHT
    for dot in shapes(svg, "circle"):
        radius = float(dot.get("r"))
        assert radius <= float(dot.get("cx")) <= figures.WIDTH - radius
        assert radius <= float(dot.get("cy")) <= figures.HEIGHT - radius


@pytest.mark.parametrize("scale", [1e-4, 1.0, 12345.0])
def test_no_label_or_point_of_a_curve_is_cut_off(scale):
    points = [(step, scale * (-1) ** step) for step in range(1, 11)]
    svg, _ = figures.curve(
        points, "training step", "loss", min_span=1e-6, heldout=[(12, 2 * scale)]
    )
    within(svg)
    assert len(shapes(svg, "circle")) == 11


def test_a_nearly_constant_curve_is_drawn_flat_and_a_rising_one_is_not():
    flat = [(step, 0.693 + 1e-4 * (step % 2)) for step in range(60)]
    rising = [(step, 0.693 + step / 100) for step in range(60)]
    for points, tall in ((flat, False), (rising, True)):
        svg, _ = figures.curve(points, "training step", "loss", min_span=0.1)
        assert (spread(polyline(svg, "pale")) > figures.HEIGHT / 2) is tall
        assert tall or spread(polyline(svg, "pale")) < 1


def test_a_level_far_from_the_data_is_still_on_the_picture():
    svg, legend = figures.curve([(1, 5.0), (2, 5.1)], "step", "loss", min_span=0.1, level=0.5)
    (_, height), _ = polyline(svg, "level")
    assert 0 < height < figures.HEIGHT - figures.BELOW + 1
    assert ("level", "0.5") in legend


def test_the_running_mean_of_a_short_run_is_not_drawn_as_a_second_curve():
    _, short = figures.curve([(s, s) for s in range(5)], "step", "loss", min_span=1)
    _, long = figures.curve([(s, s) for s in range(50)], "step", "loss", min_span=1)
    assert [text for _, text in short] == ["each step"]
    assert [text for _, text in long] == ["running mean", "each step"]


def test_a_histogram_counts_every_label_also_below_one_half():
    for values, counts in (
        ([0.5, 0.55, 0.99, 1.0], [1, 1] + [0] * 7 + [2]),
        ([0.05, 1.0], [1] + [0] * 8 + [1]),
    ):
        svg = figures.histogram(values, "P(chosen is better)")
        titles = [e.text for e in shapes(svg, "title")]
        assert [int(title.rsplit(": ", 1)[1]) for title in titles] == counts
        within(svg)


def test_a_reliability_diagram_shows_the_lowest_agreement_and_larger_bins_larger():
    bins = [ConfidenceBin(0.55, 0.1, 1), ConfidenceBin(0.95, 0.9, 100)]
    svg = figures.reliability(bins, "confidence")
    within(svg)
    small, large = (float(dot.get("r")) for dot in shapes(svg, "circle"))
    assert small < large


def test_labels_of_a_plot_cannot_become_markup():
    svg, _ = figures.curve([(1, 1.0)], "<b>step", '"><script>', min_span=1)
    assert not re.search("<b>|<script>", svg)


def test_an_interval_bar_says_what_it_shows_and_unmeasured_rows_are_left_out():
    rows = [
        ("dpo", Estimate(0.5, 0.25, 0.75, 26)),
        ("one", Estimate(1.0, None, None, 1)),
        ("no", None),
    ]
    dpo, one = figures.interval_bars(rows)
    assert (dpo.low, dpo.width, dpo.text) == (25.0, 50.0, "50 % [25, 75]")
    assert (one.low, one.value, one.text) == (None, 100.0, "100 %")
