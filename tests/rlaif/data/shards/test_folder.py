"""A folder of shards is read as one data set, and only when it is complete."""

from pathlib import Path

import pytest

from rlaif.data.files import RecordError
from rlaif.data.records import Prompt
from rlaif.data.rows import iter_rows
from rlaif.data.shards.folder import ShardList, claim_list, data_files, place_once, read_list
from rlaif.data.shards.parquet import ShardNote, content_key, prompt_schema, read_note, write_shard

TWO = ShardList(holds="prompts", shards=("00000.parquet", "00001.parquet"), made_with={"n": 2})


def shard(path: Path, *ids: str, key: str = "k") -> None:
    prompts = [Prompt.model_validate({"id": id, "messages": [{"role": "user", "content": id}]})
               for id in ids]  # fmt: skip
    write_shard(path, prompts, prompt_schema(), ShardNote(key=key, rows=len(ids)))


def test_rows_come_shard_after_shard(tmp_path: Path) -> None:
    claim_list(tmp_path, TWO)
    shard(tmp_path / "00001.parquet", "c")
    shard(tmp_path / "00000.parquet", "a", "b")
    shard(tmp_path / "00002.parquet", "not listed")

    assert [fields["id"] for _, fields in iter_rows(tmp_path)] == ["a", "b", "c"]


def test_a_missing_shard_is_named_with_the_remedy(tmp_path: Path) -> None:
    claim_list(tmp_path, TWO)
    shard(tmp_path / "00000.parquet", "a")

    with pytest.raises(RecordError, match=r"1 of 2 shards are not there yet \(00001.parquet\)"):
        data_files(tmp_path)


def test_the_list_of_other_settings_is_refused_by_name_and_both_values(tmp_path: Path) -> None:
    claim_list(tmp_path, TWO)
    claim_list(tmp_path, TWO)  # the same again

    other = TWO.model_copy(update={"made_with": {"n": 4}})
    with pytest.raises(RecordError, match="was made otherwise: n: 2 then, 4 now"):
        claim_list(tmp_path, other)
    assert read_list(tmp_path) == TWO


def test_of_two_files_for_one_name_the_first_stands(tmp_path: Path) -> None:
    target = tmp_path / "x"
    for content, first in (("one", True), ("two", False)):
        (tmp_path / "made").write_text(content)
        assert place_once(tmp_path / "made", target) is first

    assert target.read_text() == "one"
    assert not (tmp_path / "made").exists()


def test_a_note_is_read_without_the_rows_and_names_the_content(tmp_path: Path) -> None:
    shard(tmp_path / "a.parquet", "a", key="of a")

    assert read_note(tmp_path / "a.parquet") == ShardNote(key="of a", rows=1)
    assert content_key(tmp_path / "a.parquet") == "of a"


def test_half_a_file_is_no_shard(tmp_path: Path) -> None:
    shard(tmp_path / "a.parquet", "a")
    half = (tmp_path / "a.parquet").read_bytes()[:-10]
    (tmp_path / "a.parquet").write_bytes(half)

    with pytest.raises(RecordError, match="not a complete shard"):
        read_note(tmp_path / "a.parquet")


def test_an_invalid_list_names_the_field(tmp_path: Path) -> None:
    (tmp_path / "shards.json").write_text('{"holds": "things", "shards": [], "made_with": {}}')

    with pytest.raises(RecordError, match="holds"):
        read_list(tmp_path)
