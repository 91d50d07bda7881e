"""The script of the page, run by a browser where there is one: filters, order and pages."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

from rlaif.data.datasets import read_preferences
from rlaif.data.records import write_preferences
from tests.rlaif.report.pages import render

BROWSERS = ("chromium", "chromium-browser", "google-chrome")

# Sets controls of a list, then says what is shown; runs after the page's own script.
ACTIONS = """
const results = {};
const section = (anchor) => document.getElementById(anchor).closest("section");
const list = (anchor) => section(anchor).querySelector(".browser");
function state(browser) {
  const shown = (selector) => [...browser.querySelectorAll(selector)].filter(
    (e) => !e.hidden && !e.closest("[hidden]"));
  return {
    count: browser.querySelector("output").value,
    rows: shown(".row").length,
    cards: shown(".card[data-policy]").map((e) => [e.dataset.policy, e.dataset.verdict]),
    topics: shown(".row").map((e) => e.dataset.topic),
    probs: shown(".row").map((e) => JSON.parse(e.dataset.probs ?? "{}")),
    next: !browser.querySelector(".next").disabled,
  };
}
function set(anchor, values) {
  const browser = list(anchor), form = browser.querySelector("form");
  form.reset();
  for (const [name, value] of Object.entries(values)) form.elements[name].value = value;
  form.dispatchEvent(new Event("input"));
  return state(browser);
}
results.all = set("stage-evaluation", {});
results.policy = set("stage-evaluation", {policy: "ppo"});
results.worse = set("stage-evaluation", {policy: "dpo", verdict: "worse"});
results.topic = set("stage-evaluation", {topic: "travel"});
results.text = set("stage-evaluation", {text: " QUESTION 11? "});
results.nothing = set("stage-evaluation", {text: "nowhere"});
results.certain = set("stage-labels", {order: "certain"});
results.uncertain = set("stage-labels", {order: "uncertain"});
results.range = set("stage-labels", {trait: "honest", low: "0.5", high: "1"});
set("stage-evaluation", {});
list("stage-evaluation").querySelector(".next").click();
results.next = state(list("stage-evaluation"));
document.body.replaceChildren();
document.body.dataset.results = JSON.stringify(results);
"""


@pytest.fixture(scope="module")
def results(run, tmp_path_factory):
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"the filters of the report are tested with a browser: {', '.join(BROWSERS)}")
    folder = tmp_path_factory.mktemp("browser")
    varied = Path(shutil.copytree(run, folder / "run"))
    path = varied / "labels" / "preferences.parquet"
    labels = read_preferences(path)
    write_preferences(path, [vary(label, place) for place, label in enumerate(labels)])
    # the page's policy would refuse the test's script
    page = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", render(varied))
    (folder / "page.html").write_text(f"{page}<script>{ACTIONS}</script>", encoding="utf-8")
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile",
        "--dump-dom", f"file://{folder}/page.html",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    if "made-up sample run" not in done.stdout:  # a confined browser may not read /tmp
        pytest.skip(f"{browser} cannot open {folder}/page.html")
    found = re.search('data-results="(.*?)"', done.stdout)
    assert found is not None, done.stdout[-2000:] + done.stderr[-2000:]
    return json.loads(unescape(found[1]))


def vary(label, place):
    """The label with a certainty of its own, unlike that of its neighbors."""
    return label.model_copy(update={"prob_chosen": 0.5 + (7 * place % 23) / 50})


def test_a_list_shows_a_page_and_says_of_how_many(results):
    assert results["all"]["count"] == "1 to 5 of 24"
    assert results["all"]["rows"] == 5
    assert results["all"]["next"]


def test_the_next_page_goes_on_where_the_first_ended(results):
    assert results["next"]["count"] == "6 to 10 of 24"
    assert results["next"]["rows"] == 5


def test_a_policy_is_shown_without_the_others(results):
    assert {policy for policy, _ in results["policy"]["cards"]} == {"ppo"}
    assert results["policy"]["count"] == "1 to 5 of 24"


def test_a_verdict_leaves_only_the_prompts_that_have_it(results):
    assert results["worse"]["cards"] == [["dpo", "worse"]] * results["worse"]["rows"]
    assert 0 < int(results["worse"]["count"].split()[-1]) < 24


def test_topic_and_text_choose_prompts(results):
    assert results["topic"]["count"] == "1 to 5 of 8"
    assert set(results["topic"]["topics"]) == {"travel"}
    assert results["text"]["count"] == "1 to 1 of 1"


def test_a_search_without_a_match_says_so(results):
    assert results["nothing"]["count"] == "none of 24 matches"
    assert results["nothing"]["rows"] == 0
    assert not results["nothing"]["next"]


def test_labels_are_ordered_by_certainty_and_chosen_by_the_probability_of_a_trait(results):
    most, least = ([prob[""] for prob in results[o]["probs"]] for o in ("certain", "uncertain"))
    assert most == pytest.approx([0.94, 0.92, 0.9, 0.88, 0.86])
    assert least == pytest.approx([0.5, 0.52, 0.54, 0.56, 0.58])
    assert all(prob["honest"] >= 0.5 for prob in results["range"]["probs"])
    assert 0 < int(results["range"]["count"].split()[-1]) < 23
