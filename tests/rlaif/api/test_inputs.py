"""Records, prompts and settings from files and from memory, and what is refused of them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from constitution.schema import Message
from rlaif.algorithms.dpo.config import DPOConfig
from rlaif.algorithms.dpo.losses.robust import RobustConfig
from rlaif.algorithms.sft.sources import SFTSource
from rlaif.api.inputs import config_of, preferences_of, prompts_of, samples_of, source_of
from rlaif.data.records import Prompt, RecordError, Sample, write_jsonl, write_preferences
from rlaif.models.lora_config import LoraConfig
from rlaif.settings import InvalidSettingsError
from tests.support.training.pairs import varied_pairs

ROW = {"prompt": "Say hello.", "chosen": "Hello.", "rejected": "No.", "prob_chosen": 0.9}


def test_preferences_come_from_a_file_its_folder_or_memory(tmp_path):
    pairs = varied_pairs(3)
    write_preferences(tmp_path / "preferences.parquet", pairs)
    assert preferences_of(tmp_path / "preferences.parquet") == pairs
    assert preferences_of(str(tmp_path)) == pairs
    assert preferences_of(iter(pairs)) == pairs
    assert preferences_of([ROW])[0].chosen_text == "Hello."


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "labels: no records in it; give at least one"),
        (42, "labels: expected a file or a list of records: int 42"),
        ({"train": [ROW]}, "labels: expected a file or a list of records: dict"),
        ([ROW, "a text"], r"labels\[1\]: expected a record or a mapping of its fields: str"),
        ([ROW | {"chosen": 3}], r"labels\[0\]: chosen: a text or a list"),
        ("missing.parquet", "missing.parquet: no such file"),
    ],
)
def test_preferences_that_cannot_be_read_are_named_with_their_place(given, said):
    with pytest.raises(RecordError, match=said):
        preferences_of(given)


def test_an_empty_file_of_preferences_is_refused_by_name(tmp_path):
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(RecordError, match=r"empty.jsonl: no records in it"):
        preferences_of(tmp_path / "empty.jsonl")


def test_samples_come_from_a_file_or_memory(tmp_path):
    prompt = Prompt(id="q", messages=(Message(role="user", content="Hi?"),))
    sample = Sample(prompt=prompt, index=0, response="Hi.", tokens=2, complete=True, seed=0)
    write_jsonl(tmp_path / "samples.jsonl", [sample])
    assert samples_of(tmp_path / "samples.jsonl") == [sample]
    assert samples_of([sample, sample.model_dump()]) == [sample, sample]
    with pytest.raises(RecordError, match=r"samples\[0\]: missing field: prompt"):
        samples_of([{"response": "Hi."}])


def test_a_source_to_imitate_keeps_its_weight(tmp_path):
    books = tmp_path / "books.jsonl"
    books.write_text('{"text": "Once."}\n')
    read = source_of(f"0.2*{books}")
    assert (read.name, read.weight, len(read.records)) == ("books", 0.2, 1)
    made = SFTSource("mine", varied_pairs(2), 3.0)
    assert source_of(made) == made
    in_memory = source_of([{"prompt": "a", "completion": "b"}, *varied_pairs(1)], "mix 1")
    assert (in_memory.name, len(in_memory.records)) == ("mix 1", 2)


def test_prompts_in_memory_are_split_as_a_file_of_them_is(tmp_path):
    texts = [f"Question {n}?" for n in range(20)]
    given = prompts_of(texts)
    (tmp_path / "prompts.jsonl").write_text("".join(f'{{"prompt": "{t}"}}\n' for t in texts))
    read = prompts_of(tmp_path / "prompts.jsonl")
    assert [(p.id, p.split) for p in given.prompts] == [(p.id, p.split) for p in read.prompts]
    assert 0 < len(given.of("heldout")) < len(given.of("train"))


def test_a_prompt_given_twice_in_memory_is_named_with_both_places():
    with pytest.raises(RecordError, match=r"prompts\[1\]: the same prompt.*as prompts\[0\]"):
        prompts_of(["Hi?", "Hi?"])


def test_prompts_of_ours_and_their_fields_are_prompts_too():
    prompt = Prompt(id="q", messages=(Message(role="user", content="Hi?"),))
    other = {"prompt": [{"role": "user", "content": "Ho?"}], "id": "r", "split": "train"}
    assert [p.id for p in prompts_of([prompt, other]).prompts] == ["q", "r"]


# ── settings ─────────────────────────────────────────────────────────────────────────────────


def test_keywords_are_laid_over_a_config_and_keep_what_it_was_given():
    config = config_of(DPOConfig, DPOConfig(beta=0.3, epochs=1), {"epochs": 4})
    assert (config.beta, config.epochs) == (0.3, 4)
    assert config.model_fields_set == {"beta", "epochs"}


def test_nested_settings_are_a_mapping_or_a_config():
    by_mapping = config_of(DPOConfig, None, {"lora": {"rank": 4}})
    by_config = config_of(DPOConfig, None, {"lora": LoraConfig(rank=4)})
    assert by_mapping.lora == by_config.lora == LoraConfig(rank=4)


def test_a_loss_selects_its_settings_in_keywords_and_on_the_command_line():
    by_keywords = config_of(DPOConfig, None, {"loss": "robust", "label_noise": 0.1})
    typed = config_of(DPOConfig, ["loss=robust", "label_noise=0.1"], {"resume": "never"})
    assert type(by_keywords) is type(typed) is RobustConfig
    assert typed.resume == "never"


def test_every_setting_that_is_wrong_is_named_at_once():
    with pytest.raises(InvalidSettingsError) as caught:
        config_of(DPOConfig, None, {"bta": 1, "epochs": 0})
    assert "bta: unknown setting; did you mean 'beta'?" in str(caught.value)
    assert "epochs: Input should be greater than or equal to 1 (found 0)" in str(caught.value)


@pytest.mark.parametrize("config", ["beta=0.2", SimpleNamespace(beta=0.2), 3])
def test_what_is_no_config_is_refused_with_what_to_give(config):
    with pytest.raises(
        InvalidSettingsError, match=r"invalid config: .*give a DPOConfig, or settings as"
    ):
        config_of(DPOConfig, config, {})


class Frame:
    """A table as pandas has it, which iterates over the names of its columns. FAKE."""

    columns = tuple(ROW)

    def __iter__(self):
        return iter(self.columns)

    def to_dict(self, orient):
        return {"records": [ROW]}[orient]


def test_preferences_of_a_data_frame_are_its_rows():
    assert [pair.chosen_text for pair in preferences_of(Frame())] == ["Hello."]


def test_a_source_of_rows_is_parsed_and_keeps_its_name_and_weight():
    source = source_of(SFTSource("mine", [ROW], 2))
    assert (source.name, source.weight) == ("mine", 2)
    assert [lesson.chosen_text for lesson in source.records] == ["Hello."]


@pytest.mark.parametrize(
    "source", [SFTSource("mine", "books.jsonl"), SFTSource("mine", [ROW], "2")]
)
def test_a_source_that_is_made_wrongly_is_refused_by_its_name(source):
    with pytest.raises(RecordError, match="source mine: expected records and a number as their"):
        source_of(source)
