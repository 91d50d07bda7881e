"""Reference log-probs that are computed once: kills, torn lines, two writers, a full disk."""

from __future__ import annotations

import dataclasses
import json
import math
import resource
from concurrent.futures import ThreadPoolExecutor

import pytest

from rlaif.algorithms.dpo.reference_cache import ReferenceCache, ReferenceLogprobs
from rlaif.batching.encode import Pair, Row
from rlaif.training.config import TrainingError

PAIR = Pair("a", Row("a", (1, 2, 3, 4), 2), Row("a", (1, 2, 5), 2), 0.9, {})
VALUE = ReferenceLogprobs(-1.5, -0.1)


@pytest.fixture
def cache(tmp_path) -> ReferenceCache:
    return ReferenceCache(tmp_path / "shared", "f" * 64, "float32")


def test_what_was_appended_is_read_back_to_the_bit(cache):
    third = ReferenceLogprobs(-1 / 3, -2.0000000298023224)
    cache.append({"x": VALUE, "y": third})
    cache.append({"z": VALUE})
    assert cache.read(["y", "z", "unknown"]) == {"y": third, "z": VALUE}


def test_a_cache_without_a_file_is_empty(cache):
    assert cache.read(["x"]) == {}


def test_the_key_is_the_content_and_not_the_id_or_the_label(cache):
    relabeled = dataclasses.replace(PAIR, id="b", prob_chosen=0.6, traits={"kind": 0.1})
    assert cache.key(relabeled) == cache.key(PAIR)


@pytest.mark.parametrize(
    "changed",
    [
        dataclasses.replace(PAIR, chosen=Row("a", (1, 2, 3, 5), 2)),
        dataclasses.replace(PAIR, chosen=Row("a", (1, 2, 3, 4), 3)),
        dataclasses.replace(PAIR, chosen=Row("a", (1, 2, 34), 2)),
        dataclasses.replace(PAIR, chosen=PAIR.rejected, rejected=PAIR.chosen),
    ],
)
def test_other_tokens_another_start_or_order_are_another_key(cache, changed):
    assert cache.key(changed) != cache.key(PAIR)


def test_another_model_dtype_or_temperature_is_another_key(cache, tmp_path):
    others = [
        ReferenceCache(tmp_path, "e" * 64, "float32"),
        ReferenceCache(tmp_path, "f" * 64, "bfloat16"),
        ReferenceCache(tmp_path, "f" * 64, "float32", temperature=0.7),
    ]
    assert len({c.key(PAIR) for c in [cache, *others]}) == 4


def test_a_torn_last_line_is_passed_over_and_cut_by_the_next_append(cache):
    cache.append({"x": VALUE})
    with cache.path.open("a") as file:
        file.write('{"key": "y", "chosen": -1.0, "reje')
    assert cache.read(["x", "y"]) == {"x": VALUE}
    cache.append({"z": VALUE})
    lines = [json.loads(line)["key"] for line in cache.path.read_text().splitlines()]
    assert lines == ["x", "z"]


def test_a_torn_line_longer_than_a_block_is_cut_too(cache):
    cache.append({"x": VALUE})
    with cache.path.open("a") as file:
        file.write("y" * 10_000)
    cache.append({"z": VALUE})
    assert len(cache.path.read_text().splitlines()) == 2


def test_a_line_that_is_damaged_or_not_finite_is_skipped(cache):
    cache.append({"x": VALUE, "nan": ReferenceLogprobs(math.nan, -1.0)})
    with cache.path.open("a") as file:
        file.write('[1, 2]\n{"key": "y"}\n{"key": "z", "chosen": "?", "rejected": 0}\nnoise\n')
    cache.append({"w": VALUE})
    assert cache.read(["x", "y", "z", "w", "nan"]) == {"x": VALUE, "w": VALUE}


def _write(folder, name):
    cache = ReferenceCache(folder, "f" * 64, "float32")
    for i in range(60):
        cache.append({f"{name}-{i}-{j}" + "k" * 60: ReferenceLogprobs(-i, -j) for j in range(3)})


def test_two_writers_at_once_corrupt_nothing(cache):
    # flock holds between descriptors: two threads with one each stand for two processes
    with ThreadPoolExecutor(2) as writers:
        list(writers.map(lambda name: _write(cache.path.parent, name), "ab"))
    keys = [f"{name}-{i}-{j}" + "k" * 60 for name in "ab" for i in range(60) for j in range(3)]
    found = cache.read(keys)
    assert len(found) == len(keys) == len(cache.path.read_text().splitlines())
    assert found["b-7-2" + "k" * 60] == ReferenceLogprobs(-7, -2)


def test_a_full_disk_is_reported_and_what_was_there_stays(cache):
    cache.append({"x": VALUE})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (cache.path.stat().st_size + 100, hard))
    try:
        with pytest.raises(TrainingError, match=r"cannot be written \(File too large\)"):
            cache.append({f"y{i}": VALUE for i in range(100)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(cache.path.read_text().splitlines()) == 1
    assert cache.read(["x"]) == {"x": VALUE}


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match=r"file/folder: cannot be created .*choose another"):
        ReferenceCache(tmp_path / "file" / "folder", "f", "float32")
