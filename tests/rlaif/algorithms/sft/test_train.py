"""SFT's loss by hand and against torch's, its mix of sources, and what its training does."""

from __future__ import annotations

import json
import math
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from transformers import AutoModelForCausalLM

from constitution.schema import Message
from rlaif.algorithms.sft.config import SFTConfig
from rlaif.algorithms.sft.lessons import Pick, encode_lessons, mixture, plain_rows
from rlaif.algorithms.sft.sources import SFTSource
from rlaif.algorithms.sft.train import sft_loss, train, train_step
from rlaif.batching.encode import pad
from rlaif.batching.unusable import BatchError
from rlaif.data.records import Demonstration, PlainText, Prompt, Sample, write_jsonl
from rlaif.distributed.processes import ProcessGroup
from rlaif.models.backbone import Backbone
from rlaif.models.lora_config import LoraConfig
from rlaif.training.config import TrainingError
from rlaif.training.heldout import mean_loss
from tests.support.training.gradients import GradientKeeper
from tests.support.training.pairs import preference

ALONE = ProcessGroup(rank=0, count=1)


def small(**settings) -> SFTConfig:
    base = {"dtype": "float32", "batch_size": 4, "checkpoint_every": 1, "max_tokens": 120}
    return SFTConfig(**(base | settings))


def demonstrations(n: int = 8) -> list[Demonstration]:
    return [
        Demonstration(
            id=f"d{i}",
            prompt=(Message(role="user", content=f"Say {i}" + "x" * (i % 3)),),
            response=f"Yes, {i}" + "!" * (i % 4),
        )
        for i in range(n)
    ]


def sample(response: str, complete: bool) -> Sample:
    prompt = Prompt(id="p", messages=(Message(role="user", content="Say x"),))
    return Sample(
        prompt=prompt, index=0, response=response, tokens=len(response) + 1, complete=complete,
        seed=0,
    )  # fmt: skip


def rows_of(backbone: Backbone, lessons):
    return encode_lessons(backbone.tokenizer, "it", lessons, small()).rows


def metrics(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def weights(out):
    from safetensors.torch import load_file

    return load_file(out / "adapter_model.safetensors")


# ── the loss ─────────────────────────────────────────────────────────────────────────────────


def test_the_loss_by_hand():
    logprobs = torch.tensor([[-9.0, -1.0, -2.0, -9.0], [-9.0, -9.0, -3.0, -4.0]])
    mask = torch.tensor([[False, True, True, False], [False, False, True, True]])
    assert sft_loss(logprobs, mask, 4).item() == pytest.approx((1 + 2 + 3 + 4) / 4)
    assert sft_loss(logprobs[:1], mask[:1], 4).item() == pytest.approx(3 / 4)


def test_the_loss_of_a_uniform_policy_is_the_log_of_the_vocabulary():
    logprobs = torch.full((2, 5), -math.log(259))
    assert sft_loss(logprobs, torch.ones(2, 5, dtype=torch.bool), 10).item() == pytest.approx(
        math.log(259)
    )


def test_loss_and_gradient_are_those_of_cross_entropy_on_the_labels(tiny_model):
    backbone = Backbone.load(tiny_model, "float32", train_fully=True)
    backbone.add_role("policy", None, 0)
    batch = pad(rows_of(backbone, demonstrations(3)))
    count = int(batch.response_mask.sum())
    loss = sft_loss(backbone.logprobs("policy", batch), batch.response_mask, count)
    loss.backward()

    other = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    labels = torch.where(batch.response_mask, batch.ids, -100)  # torch's own: -100 does not count
    logits = other(input_ids=batch.ids).logits[:, :-1]
    expected = F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
    expected.backward()
    torch.testing.assert_close(loss, expected)
    ours = {n: p.grad for n, p in backbone.role_parameters("policy").items()}
    theirs = {n: p.grad for n, p in other.named_parameters()}
    assert len(ours) == len(theirs)
    for name, gradient in theirs.items():
        (own,) = (g for n, g in ours.items() if n.endswith(name))
        torch.testing.assert_close(own, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_the_loss_is_trls_on_prompts_and_completions(tiny_model, tmp_path):
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    backbone = Backbone.load(tiny_model, "float32")
    backbone.add_role("policy", LoraConfig(), 0)
    rows = rows_of(backbone, demonstrations(4))
    texts = [
        {
            "prompt": backbone.tokenizer.decode(row.ids[: row.start]),
            "completion": backbone.tokenizer.decode(row.ids[row.start : -1]),
        }
        for row in rows
    ]
    arguments = trl.SFTConfig(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to=[], max_length=None,
        per_device_train_batch_size=4, completion_only_loss=True, gradient_checkpointing=False,
    )  # fmt: skip
    trainer = trl.SFTTrainer(
        AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32),
        args=arguments, train_dataset=Dataset.from_list(texts),
        processing_class=backbone.tokenizer,
    )  # fmt: skip
    batch = next(iter(trainer.get_train_dataloader()))
    assert int((batch["labels"] != -100).sum()) == sum(row.response_length for row in rows)
    expected = trainer.compute_loss(trainer.model, batch).item()
    assert mean_loss(backbone, "policy", rows, 4096, ALONE) == pytest.approx(expected, rel=1e-5)


def test_micro_batches_do_not_change_the_gradient(tiny_model):
    found = []
    for budget in (1, 100, 4096):
        backbone = Backbone.load(tiny_model, "float32")
        backbone.add_role("policy", LoraConfig(), 0)
        generator = torch.Generator().manual_seed(3)
        policy = backbone.role_parameters("policy")
        with torch.no_grad():
            for parameter in policy.values():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        learner = GradientKeeper([(policy, 1e-3)], 1, small(), ALONE)
        rows = rows_of(backbone, demonstrations(6))
        reported = train_step(backbone, learner, rows, ["it"] * 6, budget, "here")
        found.append((reported["loss"], learner.gradients))
    for loss, gradients in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-6)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, found[0][1][name], rtol=1e-5, atol=1e-6)


# ── rows ─────────────────────────────────────────────────────────────────────────────────────


def test_only_a_response_that_ended_by_itself_teaches_its_end(tiny_model):
    backbone = Backbone.load(tiny_model, "float32")
    whole, cut = rows_of(backbone, [sample("abc", True), sample("abc", False)])
    assert whole.ids[-1] == backbone.tokenizer.eos_token_id
    assert whole.ids[:-1] == cut.ids
    assert (whole.response_length, cut.response_length) == (4, 3)


def test_every_token_of_plain_text_counts_once_however_it_is_cut(tiny_model):
    tokenizer = Backbone.load(tiny_model, "float32").tokenizer
    text = PlainText(id="t", text="abcdefghij")
    whole = [*tokenizer.encode(text.text, add_special_tokens=False), tokenizer.eos_token_id]
    for length in (2, 3, 4, 11, 50):
        rows = plain_rows(tokenizer, text, length)
        counted = [token for row in rows for token in row.ids[row.start :]]
        assert counted == whole[1:], length  # no begin token here: the first is only read
        assert all(len(row.ids) <= length for row in rows)
    tokenizer.bos_token = "<|im_start|>"
    (row,) = plain_rows(tokenizer, text, 50)
    assert row.ids == (tokenizer.bos_token_id, *whole)
    assert row.response_length == len(whole)


def test_labels_near_one_half_are_not_imitated(tiny_model):
    tokenizer = Backbone.load(tiny_model, "float32").tokenizer
    pairs = [preference(i, f"good {i}", "bad", prob_chosen=0.5 + i / 10) for i in range(5)]
    found = encode_lessons(tokenizer, "labels", pairs, small(min_prob_chosen=0.7))
    assert [row.id for row in found.rows] == [f"pair-{i} (chosen)" for i in (2, 3, 4)]
    assert found.imitable.unsure == 2
    with pytest.raises(BatchError, match="labels: nothing to imitate among 2 records; 2 below"):
        encode_lessons(tokenizer, "labels", pairs[:2], small(min_prob_chosen=0.9))


def test_what_cannot_be_used_is_an_error_or_counted(tiny_model):
    tokenizer = Backbone.load(tiny_model, "float32").tokenizer
    lessons = [sample(" \n", True), sample("x" * 500, True), sample("fine", True)]
    for one, why in zip(lessons, ("the response is empty", "do not fit"), strict=False):
        with pytest.raises(BatchError, match=why):
            encode_lessons(tokenizer, "it", [one], small())
    found = encode_lessons(tokenizer, "it", lessons, small(unusable="skip"))
    assert (len(found.rows), len(found.skipped)) == (1, 2)


# ── the mix ──────────────────────────────────────────────────────────────────────────────────


def test_one_source_gives_each_row_once_in_every_epoch():
    picks = mixture([7], [3.0], 21, seed=4)
    for lap in range(3):
        assert sorted(p.row for p in picks[7 * lap : 7 * lap + 7]) == list(range(7))
    assert picks[:7] != picks[7:14]


def test_every_beginning_of_the_mix_has_its_weights():
    counts, share = [5, 100, 13], [0.2, 0.7, 0.1]
    picks = mixture(counts, [2.0, 7.0, 1.0], 200, seed=0)
    for n in range(1, 201):
        taken = Counter(p.source for p in picks[:n])
        assert all(abs(taken[i] - share[i] * n) < 1 for i in range(3)), n
    rows = [p.row for p in picks if p.source == 0]  # 40 rows of 5: each eight times
    assert Counter(rows) == dict.fromkeys(range(5), 8)
    assert picks == mixture(counts, [2.0, 7.0, 1.0], 200, seed=0)
    assert picks[:50] == mixture(counts, [2.0, 7.0, 1.0], 50, seed=0)  # a function of the row
    assert picks != mixture(counts, [2.0, 7.0, 1.0], 200, seed=1)


def test_the_first_rows_of_a_mix_by_hand():
    # behind their shares .75 n and .25 n: n=1 source 0 (.75); n=2: .5 and .5, the first;
    # n=3: .25 and .75: source 1; n=4: 1 and 0: source 0
    picks = mixture([1, 1], [3.0, 1.0], 4, seed=0)
    assert picks == [Pick(0, 0), Pick(0, 0), Pick(1, 0), Pick(0, 0)]


def test_a_run_of_so_many_steps_does_not_grow_with_a_large_source(tiny_model, tmp_path):
    texts = [PlainText(id=f"t{i}", text="the quick brown fox") for i in range(25)]
    sources = [SFTSource("answers", demonstrations(), 4.0), SFTSource("text", texts, 1.0)]
    assert (small(epochs=2).rows_of_run(33), small(steps=5).rows_of_run(33)) == (66, 20)
    assert small(steps=3).evaluates_every(3) == 2
    assert small(epochs=3).evaluates_every(10) == 4
    with pytest.raises(ValidationError, match="epochs=2 has no effect with steps=5; remove one"):
        small(steps=5, epochs=2)
    lines = metrics(train(small(steps=5), tiny_model, sources, tmp_path))
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]


def test_a_source_is_written_as_weight_and_file(tmp_path):
    write_jsonl(tmp_path / "books.jsonl", [PlainText(id="t", text="Once.")])
    found = SFTSource.read(f"0.25*{tmp_path / 'books.jsonl'}")
    assert (found.name, found.weight, len(found.records)) == ("books", 0.25, 1)
    assert SFTSource.read(str(tmp_path / "books.jsonl")).weight == 1.0
    for wrong in ("-1*", "nan*", "0*", "many*"):
        with pytest.raises(TrainingError, match="expected FILE or WEIGHT"):
            SFTSource.read(f"{wrong}{tmp_path / 'books.jsonl'}")


# ── training ─────────────────────────────────────────────────────────────────────────────────


def test_it_learns_a_set_by_heart_and_names_the_loss_of_each_source(tiny_model, tmp_path):
    config = small(epochs=15, learning_rate=2e-2, warmup=0.0)
    texts = [PlainText(id="t", text="the quick brown fox")]
    sources = [SFTSource("answers", demonstrations(), 3.0), SFTSource("text", texts, 1.0)]
    lines = metrics(train(config, tiny_model, sources, tmp_path))
    assert lines[0]["loss"] > 4
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]
    assert {"loss_answers", "loss_text", "response_tokens", "grad_norm"} <= lines[0].keys()


def test_a_killed_run_goes_on_to_the_same_bits(tiny_model, tmp_path, monkeypatch):
    from rlaif.algorithms.sft import train as sft

    sources = [SFTSource("a", demonstrations(6), 2.0), SFTSource("b", [sample("well", True)])]
    config = small(epochs=3, eval_every=3, batch_size=2)
    heldout = demonstrations(9)[6:]
    whole = train(config, tiny_model, sources, tmp_path / "whole", heldout)

    real, calls = sft.train_step, iter(range(100))

    def dying(*arguments):
        if next(calls) == 5:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(sft, "train_step", dying)
    with pytest.raises(KeyboardInterrupt):
        train(config, tiny_model, sources, tmp_path / "cut", heldout)
    monkeypatch.setattr(sft, "train_step", real)
    cut = train(config, tiny_model, sources, tmp_path / "cut", heldout)
    assert all(torch.equal(value, weights(cut)[name]) for name, value in weights(whole).items())
    same = ("step", "loss", "heldout_loss", "grad_norm")
    assert [[m.get(n) for n in same] for m in metrics(cut)] == [
        [m.get(n) for n in same] for m in metrics(whole)
    ]


def test_the_policy_kept_is_the_one_of_the_least_heldout_loss(tiny_model, tmp_path):
    # it learns one answer by heart, so that after a while other answers become unlikelier
    config = small(epochs=40, learning_rate=3e-2, warmup=0.0, eval_every=4, max_grad_norm=10.0)
    lessons = [sample("aaaaaaaa", True)] * 4
    heldout = demonstrations(4)
    out = train(config, tiny_model, [SFTSource("a", lessons)], tmp_path, heldout)
    losses = {m["step"]: m["heldout_loss"] for m in metrics(out) if "heldout_loss" in m}
    assert list(losses) == list(range(4, 41, 4))
    best = min(losses, key=losses.__getitem__)
    assert best < 40
    backbone = Backbone.load(tiny_model, "float32")
    backbone.load_role("policy", out)
    rows = rows_of(backbone, heldout)
    assert mean_loss(backbone, "policy", rows, 4096, ALONE) == pytest.approx(losses[best], rel=1e-5)


def test_full_fine_tuning_gives_a_model_folder(tiny_model, tmp_path):
    config = small(epochs=8, lora=None, learning_rate=3e-3, warmup=0.0)
    out = train(config, tiny_model, [SFTSource("a", demonstrations())], tmp_path)
    assert metrics(out)[-1]["loss"] < metrics(out)[0]["loss"]
    trained = Backbone.load(str(out), "float32")
    assert (
        mean_loss(trained, None, rows_of(trained, demonstrations()), 4096, ALONE)
        < (metrics(out)[0]["loss"])
    )


def test_settings_that_do_nothing_are_refused(tiny_model, tmp_path):
    answers = [SFTSource("a", demonstrations())]
    with pytest.raises(TrainingError, match="eval_every=3 does nothing without held-out samples"):
        train(small(eval_every=3, text_eval=None), tiny_model, answers, tmp_path)
    with pytest.raises(TrainingError, match=r"min_prob_chosen=0\.9 does nothing without pref"):
        train(small(min_prob_chosen=0.9), tiny_model, answers, tmp_path)
    with pytest.raises(TrainingError, match="no source to learn from"):
        train(small(), tiny_model, [], tmp_path)
    with pytest.raises(TrainingError, match="two sources have the same name: a, a"):
        train(small(), tiny_model, answers * 2, tmp_path)
    with pytest.raises(TrainingError, match=r"source b: weight=0\.0"):
        train(small(), tiny_model, [*answers, SFTSource("b", demonstrations(), 0.0)], tmp_path)
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        SFTConfig(epoch=3)


def test_other_sources_in_the_same_folder_are_refused(tiny_model, tmp_path):
    train(small(epochs=1), tiny_model, [SFTSource("a", demonstrations())], tmp_path)
    with pytest.raises(TrainingError, match=r"come from another run \(.*sources"):
        train(small(epochs=1), tiny_model, [SFTSource("a", demonstrations(), 2.0)], tmp_path)
