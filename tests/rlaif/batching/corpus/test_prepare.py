"""Preparing a corpus: in parts, by several at once, through kills."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rlaif.batching.corpus import prepare
from rlaif.batching.corpus.manifest import CorpusError, is_corpus, read_manifest
from rlaif.batching.corpus.mapped import CorpusPairs, PairCorpus
from rlaif.batching.unusable import BatchError, NoneUsableError
from rlaif.data.records import RecordError, write_preferences
from tests.support.corpora import corpus_of, preparation
from tests.support.training.pairs import many_pairs, preference, varied_pairs
from tests.support.waiting import wait_until

CODE = """
import sys, time
from pathlib import Path
from rlaif.batching.corpus import prepare
from tests.support.corpora import preparation
model, folder, seconds = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
prepare.LABELS_IN_PART = 3
whole = prepare.encode_pair
def slow(*arguments):
    time.sleep(seconds)
    return whole(*arguments)
prepare.encode_pair = slow
preparation(model, sorted(folder.glob("*.jsonl")), folder / "corpus").run()
"""


def start(model: str, folder: Path, seconds: float) -> subprocess.Popen[str]:
    """A process that prepares folder/corpus in parts of 3, and takes a while for every label."""
    command = [sys.executable, "-c", CODE, model, str(folder), str(seconds)]
    return subprocess.Popen(command, text=True, stderr=subprocess.PIPE)


def label_files(folder: Path, sizes: tuple[int, ...]) -> list[Path]:
    labels = iter(many_pairs(sum(sizes)))
    files = []
    for number, size in enumerate(sizes):
        files.append(folder / f"{number}.jsonl")
        write_preferences(files[-1], [next(labels) for _ in range(size)])
    return files


def contents(corpus: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(corpus.iterdir()) if file.is_file()}


def test_parts_and_files_make_no_difference(tiny_model, tmp_path, monkeypatch):
    files = label_files(tmp_path, (6, 4, 7))
    preparation(tiny_model, files, tmp_path / "one").run()
    monkeypatch.setattr(prepare, "LABELS_IN_PART", 3)
    preparation(tiny_model, files, tmp_path / "other").run()
    assert contents(tmp_path / "one") == contents(tmp_path / "other")
    assert not (tmp_path / "other.parts").exists()
    names = [pair.id for pair in CorpusPairs(PairCorpus(tmp_path / "one"))]
    assert names == [f"pair-{i}" for i in range(17)]


def test_killed_while_preparing_it_goes_on_with_the_rest(tiny_model, tmp_path, monkeypatch):
    files = label_files(tmp_path, (6, 4, 7))
    monkeypatch.setattr(prepare, "LABELS_IN_PART", 3)
    process = start(tiny_model, tmp_path, 0.05)
    wait_until(lambda: len(list(tmp_path.glob("corpus.parts/*/*.npz"))) >= 3)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not is_corpus(tmp_path / "corpus")
    done = len(list(tmp_path.glob("corpus.parts/*/*.npz")))
    made = []
    whole = prepare.encode_pair
    monkeypatch.setattr(prepare, "encode_pair", lambda *a: made.append(a[1].id) or whole(*a))
    preparation(tiny_model, files, tmp_path / "corpus").run()
    assert len(made) <= 17 - 2 * done  # a part has at least one label, and all but two have three
    assert made
    preparation(tiny_model, files, tmp_path / "alone").run()
    assert contents(tmp_path / "corpus") == contents(tmp_path / "alone")


def test_two_at_once_share_the_work_and_end_with_one_corpus(tiny_model, tmp_path, monkeypatch):
    files = label_files(tmp_path, (9, 9))
    processes = [start(tiny_model, tmp_path, 0.05) for _ in range(2)]
    for process in processes:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    preparation(tiny_model, files, tmp_path / "alone").run()
    assert contents(tmp_path / "corpus") == contents(tmp_path / "alone")
    assert not (tmp_path / "corpus.parts").exists()


def test_a_part_that_another_makes_is_left_to_it_and_waited_for(tiny_model, tmp_path, monkeypatch):
    files = label_files(tmp_path, (6,))
    monkeypatch.setattr(prepare, "LABELS_IN_PART", 3)
    work = preparation(tiny_model, files, tmp_path / "corpus")
    first = work._part(0, 0)
    with prepare._claimed(first, wait=False) as ours:
        assert ours
        with prepare._claimed(first, wait=False) as theirs:
            assert not theirs
        work._prepare_file(0, wait=False, done=0)
        assert not first.exists()
        assert work._part(0, 1).exists()
    work.run()
    assert is_corpus(tmp_path / "corpus")


def test_prepared_again_nothing_is_read_but_the_manifest(tiny_model, tmp_path, monkeypatch):
    corpus_of(tiny_model, varied_pairs(), tmp_path)
    monkeypatch.setattr(prepare, "iter_preferences", None)
    preparation(tiny_model, [tmp_path / "labels.parquet"], tmp_path / "corpus").run()


def test_another_corpus_or_another_thing_in_its_place_is_refused(tiny_model, tmp_path):
    corpus_of(tiny_model, varied_pairs(), tmp_path)
    labels = [tmp_path / "labels.parquet"]
    with pytest.raises(CorpusError, match=r"another max_tokens \(200, now 150\) is there"):
        preparation(tiny_model, labels, tmp_path / "corpus", max_tokens=150).run()
    (tmp_path / "mine").mkdir()
    preparation(tiny_model, labels, tmp_path / "mine").run()  # it was empty
    (tmp_path / "yours").mkdir()
    (tmp_path / "yours/notes.txt").touch()
    with pytest.raises(CorpusError, match="not a corpus; give --out a folder"):
        preparation(tiny_model, labels, tmp_path / "yours").run()


def test_pairs_that_cannot_be_used_are_refused_or_counted(tiny_model, tmp_path):
    labels = [preference(1, "a", "b"), preference(2, "a" * 300, "b"), preference(3, "c", "d")]
    file = tmp_path / "labels.jsonl"
    write_preferences(file, labels)
    with pytest.raises(BatchError, match=r"pair-2 \(chosen\): .* do not fit"):
        preparation(tiny_model, [file], tmp_path / "corpus").run()
    assert not is_corpus(tmp_path / "corpus")
    preparation(tiny_model, [file], tmp_path / "corpus", "skip").run()
    found = read_manifest(tmp_path / "corpus")
    assert (found.rows, found.left_out) == (2, 1)
    assert "pair-2 (chosen)" in found.reasons[0]
    write_preferences(file, labels[1:2])
    with pytest.raises(NoneUsableError, match="no usable pair among 1 preferences"):
        preparation(tiny_model, [file], tmp_path / "none", "skip").run()


def test_a_label_that_is_not_a_probability_is_refused(tiny_model, tmp_path):
    file = tmp_path / "labels.jsonl"
    write_preferences(file, [preference(1, "a", "b", traits={"kind": 1.5})])
    with pytest.raises(RecordError, match=r"pair-1: the label for kind is not a probability: 1.5"):
        preparation(tiny_model, [file], tmp_path / "corpus").run()
