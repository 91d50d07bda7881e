"""Whatever a file holds, it is read, or refused naming the file, the line and the field."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from constitution.errors import UserError
from rlaif.data.convert import convert
from rlaif.data.datasets import (
    parse_lessons,
    parse_preferences,
    read_lessons,
    read_preferences,
)
from rlaif.data.formats import FORMATS, recognized
from rlaif.data.prompts import load_prompts
from rlaif.data.records import PlainText, Preference, Prompt, RecordError, Sample, read_jsonl
from rlaif.data.rows import iter_rows
from tests.support.data.public_rows import PUBLIC_ROWS

PAIR = {"prompt": "Why?", "chosen": "Since.", "rejected": "No."}
LINE = json.dumps(PAIR).encode()


def made(folder: Path, content: bytes, name: str = "p.jsonl") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def rows(path: Path) -> list[dict[str, Any]]:
    return [fields for _, fields in iter_rows(path)]


# ── text files ───────────────────────────────────────────────────────────────────────────────


def test_a_text_file_is_one_plain_text_to_imitate_compressed_or_not(tmp_path):
    content = "\ufeffOnce upon a time.\n\nThe end.\n".encode()
    for name, stored in (("a.txt", content), ("b.TXT", gzip.compress(content, mtime=0))):
        (lesson,) = read_lessons(made(tmp_path, stored, name))
        assert lesson == PlainText(id=name[0], text="Once upon a time.\n\nThe end.\n")


def test_rows_in_a_file_named_txt_stay_rows(tmp_path):
    (lesson,) = read_lessons(made(tmp_path, LINE, "rows.txt"))
    assert isinstance(lesson, Preference)
    assert lesson.chosen_text == "Since."


def test_a_text_file_without_text_or_in_another_encoding_is_refused(tmp_path):
    with pytest.raises(RecordError, match=r"a\.txt: nothing in it to imitate; it holds no text"):
        read_lessons(made(tmp_path, b" \n", "a.txt"))
    with pytest.raises(RecordError, match=r"b\.txt: not UTF-8 text .* at byte 2 of the file"):
        read_lessons(made(tmp_path, b"a \xff", "b.txt"))


# ── what is read ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "content",
    [
        LINE,
        LINE + b"\r\n\r\n",
        b"\xef\xbb\xbf" + LINE,
        b"\n  " + LINE,
        b"[" + LINE + b"]",
        b"\xef\xbb\xbf [\n" + LINE + b"\n]\n",
        gzip.compress(LINE, mtime=0),
        bz2.compress(LINE),
        lzma.compress(b"[" + LINE + b"]"),
    ],
)
def test_the_same_row_is_read_however_it_is_written(tmp_path: Path, content: bytes) -> None:
    assert rows(made(tmp_path, content)) == [PAIR]


def test_a_mark_in_the_middle_of_joined_files_is_no_part_of_a_line(tmp_path: Path) -> None:
    path = made(tmp_path, LINE + b"\n\xef\xbb\xbf" + LINE)
    assert rows(path) == [PAIR, PAIR]


def test_an_object_of_an_array_is_named_by_the_line_where_it_begins(tmp_path: Path) -> None:
    content = json.dumps([PAIR, PAIR, {**PAIR, "chosen": 3}], indent=1).encode()
    assert [where for where, _ in iter_rows(made(tmp_path, content))] == [
        f"{tmp_path}/p.jsonl:{line}" for line in (2, 7, 12)
    ]
    with pytest.raises(RecordError, match=r"p\.jsonl:12: chosen: a text .* \(found 3\)"):
        read_preferences(tmp_path / "p.jsonl")


@pytest.mark.parametrize("content", [b"", b"\n\n", b"[]", b" [ ]\n", gzip.compress(b"", mtime=0)])
def test_an_empty_file_has_no_rows(tmp_path: Path, content: bytes) -> None:
    path = made(tmp_path, content)
    assert rows(path) == read_preferences(path) == []
    with pytest.raises(RecordError, match="nothing in it to imitate"):
        read_lessons(path)
    with pytest.raises(RecordError, match="no prompts in it"):
        load_prompts(path)


def test_a_table_of_columns_that_nobody_reads_is_still_read(tmp_path: Path) -> None:
    columns = {name: [value] for name, value in PAIR.items()}
    table = pyarrow.table({**columns, "raw": [b"\xff"], "day": [date(2026, 1, 1)]})
    parquet.write_table(table, tmp_path / "x.parquet")
    assert read_preferences(tmp_path / "x.parquet")[0].chosen_text == "Since."


# ── what is refused ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"prompt": "Hi \\ud83d"}', r"prompt: not Unicode text \(half a surrogate .*3\)"),
        (b'{"a": {"b": ["x", "\\udc00"]}}', r"a\.b\.1: not Unicode text"),
        (b'{"\\ud83d": 1}', r"name of a field: not Unicode text"),
        (b'{"n": ' + b"9" * 5000 + b"}", r"n: a number of over 300 digits"),
        (b'{"a": [{"n": -' + b"9" * 301 + b"}]}", r"a\.0\.n: a number of over 300 digits"),
        (b'{"meta": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", r"meta: nested over 200 deep"),
        (b'{"x": 1, "meta": ' + b'{"a":' * 300 + b"1" + b"}" * 301, r"meta: nested over 200 deep"),
        (b'{"a": ["[[\\"[", {"b": 1}], "meta": ' + b"[" * 90_000, r"meta: nested over 200 deep"),
        (b'{"prompt": "caf\xe9"}', r"not UTF-8 text \(.* at byte 15 of the line\); save"),
        (b"\x00\x00\x00", r"not JSON \(Expecting value at column 1\)"),
        (b'{"prompt": "a\x00b"}', r"not JSON \(Invalid control character at column 14\)"),
        (b"{'prompt': 'Why?'}", r"not JSON \(Expecting property name"),
        (b"{", r"not JSON .*one JSON object a line is expected"),
        (b"3", r"not a JSON object"),
        (b"[1]", r"not a JSON object"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, why: str) -> None:
    path = made(tmp_path, LINE + b"\n" + line)
    for read in (rows, read_preferences, read_lessons, load_prompts):
        with pytest.raises(RecordError, match=r"p\.jsonl:2: " + why):
            read(path)


@pytest.mark.parametrize(
    ("content", "name", "why"),
    [
        (LINE, "p.csv", "a CSV file, whose columns have no types; convert it to JSONL"),
        (LINE, "p.TSV", "a tab-separated file"),
        (b"PK\x03\x04....", "p.zip", "a zip archive; extract it"),
        (b"\x28\xb5\x2f\xfd...", "p.jsonl.zst", "compressed with zstd; decompress it"),
        (b"ARROW1\x00\x00", "p.arrow", "an Arrow file; write Parquet instead"),
        (LINE.decode().encode("utf-16"), "p.jsonl", "UTF-16 text; save it as UTF-8"),
        (gzip.compress(LINE, mtime=0)[:-9], "p.jsonl.gz", "cannot be read .*ended before"),
        (
            gzip.compress(LINE, mtime=0)[:12] + b"junk",
            "p.jsonl.gz",
            r"p\.jsonl\.gz: cannot be read",
        ),
        (b"hello", "p.parquet", "not a Parquet file"),
        (b"", "p.parquet", "not a Parquet file"),
        (b"PAR1 and nothing else", "p.jsonl", "not a Parquet file"),
        (b"[" + LINE + b"\n" + LINE + b"]", "p.json", "the array goes on without a comma"),
        (b"[" + LINE, "p.json", "the array goes on without a comma, or is cut"),
        (b"[" + LINE + b",]", "p.json", "not JSON"),
        (b"[" + LINE + b"]\n[]", "p.json", "text after the end of the JSON array"),
    ],
)
def test_a_file_of_another_kind_says_what_it_is(
    tmp_path: Path, content: bytes, name: str, why: str
) -> None:
    with pytest.raises(RecordError, match=why):
        rows(made(tmp_path, content, name))


def test_a_folder_names_the_files_to_give(tmp_path: Path) -> None:
    made(tmp_path, LINE, "train.jsonl")
    why = rf"^{tmp_path}: cannot be read \(it is a folder\); give one of its files: train\.jsonl$"
    with pytest.raises(RecordError, match=why):
        rows(tmp_path)
    with pytest.raises(RecordError, match=rf"^{os.devnull}: not a regular file"):
        rows(Path(os.devnull))
    with pytest.raises(RecordError, match=rf"^{tmp_path}/none\.jsonl: no such file$"):
        rows(tmp_path / "none.jsonl")
    with pytest.raises(RecordError, match=r"no such file|cannot be read"):
        rows(tmp_path / ("x" * 5000))
    with pytest.raises(RecordError, match=r"no such file|cannot be read"):
        rows(tmp_path / "a\0b")


def test_a_text_of_parquet_that_is_not_utf8_is_named_by_row_and_column(tmp_path: Path) -> None:
    texts = pyarrow.array([b"fine", b"caf\xe9"], pyarrow.binary()).view(pyarrow.string())
    parquet.write_table(pyarrow.table({"id": ["a", "b"], "prompt": texts}), tmp_path / "x.parquet")
    for read in (rows, read_lessons, load_prompts):
        with pytest.raises(RecordError, match=r"x\.parquet: row 1: prompt: cannot be read"):
            read(tmp_path / "x.parquet")


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pyarrow.Table.from_arrays([["a"], ["b"]], names=["prompt", "prompt"])
    parquet.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(RecordError, match="several columns are named 'prompt'"):
        rows(tmp_path / "x.parquet")


def test_records_of_ours_pass_the_same_door(tmp_path: Path) -> None:
    path = made(tmp_path, b'{"id": "p", "messages": [{"role": "user", "content": "\\ud800"}]}')
    with pytest.raises(RecordError, match=r"p\.jsonl:1: messages\.0\.content: not Unicode"):
        read_jsonl(path, Prompt)
    record = b'{"id": "p", "messages": [{"role": "user", "content": "Hi"}]}'
    assert len(read_jsonl(made(tmp_path, b"\xef\xbb\xbf" + record), Prompt)) == 1


def test_a_large_array_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlaif.data.rows._LARGEST_ARRAY", 50)
    with pytest.raises(RecordError, match=r"write one object a line instead, .* jq"):
        rows(made(tmp_path, b"[" + LINE + b"]"))


# ── whatever it is ───────────────────────────────────────────────────────────────────────────

READERS: list[Callable[[Path], object]] = [
    rows,
    read_preferences,
    read_lessons,
    load_prompts,
    lambda path: read_jsonl(path, Sample),
    lambda path: convert(path, path.with_name("out.jsonl"), dry_run=True),
]

COLUMNS = sorted(set().union(*(each.columns for each in FORMATS.values())))
NESTED = ["role", "content", "from", "value", "answer", "rank", "response", "annotations", "text"]
ROLES = st.sampled_from(["user", "assistant", "system", "human", "gpt", "prompter"])
ODD = st.sampled_from(
    [10**299, -(10**400), float("nan"), float("inf"), "\ud83d", "\0", "", "\n\nHuman: x", "A>B"]
)
LEAVES = st.none() | st.booleans() | st.integers(-4, 4) | st.floats() | st.text() | ODD | ROLES
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NESTED) | st.text(max_size=4), inner, max_size=4)
        | st.lists(st.fixed_dictionaries({"role": ROLES, "content": st.text()}), max_size=3)
    ),
    max_leaves=8,
)
ROWS = st.dictionaries(st.sampled_from(COLUMNS) | st.text(max_size=6), VALUES, max_size=6)


@st.composite
def spoiled_rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Rows of a public data set of which one value, at any depth, is another or missing."""
    rows = deepcopy(PUBLIC_ROWS[draw(st.sampled_from(sorted(PUBLIC_ROWS)))])
    inside: Any = draw(st.sampled_from(rows))
    for _ in range(draw(st.integers(0, 5))):
        keys = list(inside) if isinstance(inside, dict) else list(range(len(inside)))
        deeper = [key for key in keys if isinstance(inside[key], dict | list) and inside[key]]
        if not deeper:
            break
        inside = inside[draw(st.sampled_from(deeper))]
    key = draw(st.sampled_from(list(inside) if isinstance(inside, dict) else range(len(inside))))
    if draw(st.booleans()):
        inside[key] = draw(VALUES)
    else:
        del inside[key]
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def read_all(path: Path) -> None:
    """Reads in every way; any error but a UserError fails the test."""
    for read in READERS:
        try:
            read(path)
        except UserError as error:
            str(error).encode()  # a message that any terminal can print


@given(
    start=st.sampled_from([b"", b"\xef\xbb\xbf", b"[", b"PAR1", b"\x1f\x8b", b'{"prompt": ', LINE]),
    content=st.binary(max_size=200),
    name=st.sampled_from(["x.jsonl", "x.json", "x.parquet", "x"]),
)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_bytes_give_anything_but_an_error_for_users(
    folder: Path, start: bytes, content: bytes, name: str
) -> None:
    read_all(made(folder, start + content, name))


@given(found=st.lists(ROWS, max_size=4) | spoiled_rows())
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_rows_give_anything_but_an_error_for_users(
    folder: Path, found: list[dict[str, Any]]
) -> None:
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        text = "\n".join(json.dumps(row) for row in found)
    finally:
        sys.set_int_max_str_digits(before)
    read_all(made(folder, text.encode(), "x.jsonl"))


WRONG: list[Any] = [
    None, True, False, 0, 1, 1.0, -1, 7, 10**299, float("nan"), float("inf"), "", " ", "x", "A>B",
    [], [[]], [1, "x"], [None], {}, {"role": "user"}, [{"role": [], "content": {}}], {"x": None},
]  # fmt: skip


def places(value: Any) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside a value."""
    keys = value if isinstance(value, dict) else range(len(value))
    for key in keys if isinstance(value, dict | list) else ():
        yield (key,)
        if isinstance(value[key], dict | list):
            yield from ((key, *rest) for rest in places(value[key]))


@pytest.mark.parametrize("name", FORMATS)
def test_every_value_of_a_public_row_may_be_wrong(name: str) -> None:
    """Exhaustive where the tests with hypothesis sample: each place with each wrong value."""
    read = [each for each in (FORMATS[name].convert, FORMATS[name].lessons) if each]
    for path, value in product(list(places(PUBLIC_ROWS[name])), WRONG):
        found = deepcopy(PUBLIC_ROWS[name])
        inside: Any = found
        for key in path[:-1]:
            inside = inside[key]
        inside[path[-1]] = value
        if len(path) == 1 and not isinstance(value, dict):
            continue  # a row that is no object does not get this far
        for convert_format in read:
            with suppress(UserError):
                recognized(found[0])
                list(convert_format((f"x:{n}", row) for n, row in enumerate(found)))


CELLS = st.none() | st.binary() | st.text() | st.floats() | st.booleans()
TABLES = st.dictionaries(
    st.sampled_from(COLUMNS), st.lists(CELLS, min_size=2, max_size=2), min_size=1
)


@given(TABLES)
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_table_gives_anything_but_an_error_for_users(
    folder: Path, columns: dict[str, list[Any]]
) -> None:
    try:
        table = pyarrow.table(columns)
        parquet.write_table(table, folder / "x.parquet")
    except (pyarrow.ArrowException, UnicodeEncodeError):  # mixed types: no such table exists
        return
    read_all(folder / "x.parquet")


# ── rows in memory ───────────────────────────────────────────────────────────────────────────


def test_rows_in_memory_are_read_as_those_of_a_file(tmp_path: Path) -> None:
    for name, found in PUBLIC_ROWS.items():
        path = made(tmp_path, "\n".join(map(json.dumps, found)).encode())
        places = [(f"labels[{n}]", row) for n, row in enumerate(found)]
        assert list(parse_lessons(places, "labels")) == read_lessons(path)
        if name not in ("alpaca", "sharegpt"):
            assert list(parse_preferences(places, "labels")) == read_preferences(path)


def test_records_among_rows_in_memory_stay_as_they_are() -> None:
    (record,) = parse_preferences([("labels[0]", PAIR)], "labels")
    mixed = [("labels[0]", record), ("labels[1]", PAIR), ("labels[2]", record)]
    assert list(parse_preferences(mixed, "labels")) == [record] * 3
    assert list(parse_lessons(mixed, "labels")) == [record] * 3


@pytest.mark.parametrize(
    ("value", "why"),
    [("\ud83d", "meta: not Unicode"), (10**300, "meta: a number of over 300 digits"),
     ({1: 2}, r"name of a field: a text is needed \(found 1\)")],
)  # fmt: skip
def test_rows_in_memory_pass_the_same_door(value: Any, why: str) -> None:
    for parse in (parse_preferences, parse_lessons):
        with pytest.raises(RecordError, match=rf"labels\[0\]: {why}"):
            list(parse([("labels[0]", {**PAIR, "meta": value})], "labels"))
    inside: list[Any] = []
    inside.append(inside)
    with pytest.raises(RecordError, match="nested over 200 deep"):
        list(parse_preferences([("labels[0]", {**PAIR, "meta": inside})], "labels"))
