"""DPO's losses by hand and against TRL, and what its training does."""

from __future__ import annotations

import json
import math

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from rlaif.algorithms.dpo.config import DPOConfig
from rlaif.algorithms.dpo.losses import LOSSES, Loss
from rlaif.algorithms.dpo.reference_cache import ReferenceCache
from rlaif.algorithms.dpo.train import evaluate, reference_logprobs, train, train_step
from rlaif.batching.encode import encode_pairs
from rlaif.batching.unusable import BatchError
from rlaif.distributed.processes import ProcessGroup
from rlaif.models.backbone import Backbone
from rlaif.models.lora_config import LoraConfig
from rlaif.training.config import TrainingError
from rlaif.training.heldout import load_kept
from rlaif.training.run import Run
from tests.support.training.gradients import (
    ALONE,
    GradientKeeper,
    OneOfSeveral,
    summed_over_processes,
)
from tests.support.training.killed import (
    KilledError,
    assert_same_outcome,
    kill_after,
    metrics,
    weights,
)
from tests.support.training.pairs import preference, varied_pairs


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("sigmoid", "sigmoid"), ("ipo_mean", "ipo"), ("robust", "robust"), ("sigmoid_norm",) * 2],
)
@pytest.mark.filterwarnings("ignore")
def test_losses_and_gradients_are_trls(ours, theirs, tiny_model, tmp_path):
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    noise = {"label_noise": 0.2} if ours == "robust" else {}
    preferences = varied_pairs()
    config = small(loss=ours, beta=0.3, lora=None, **noise)
    backbone, pairs, reference = start(tiny_model, preferences, tmp_path, config)
    backbone.save_role("policy", tmp_path / "policy")
    learner = GradientKeeper([(backbone.role_parameters("policy"), 1e-3)], 1, config, ALONE)
    found = train_step(backbone, learner, pairs, reference, config, "here")

    arguments = trl.DPOConfig(
        output_dir=str(tmp_path / "trl"), loss_type=[theirs], beta=0.3, use_cpu=True, bf16=False,
        label_smoothing=noise.get("label_noise", 0.0), per_device_train_batch_size=8, report_to=[],
        max_length=None, disable_dropout=True, gradient_checkpointing=False,
    )  # fmt: skip
    texts = [
        {
            "prompt": backbone.tokenizer.decode(pair.chosen.ids[: pair.chosen.start]),
            "chosen": preference.chosen_text,
            "rejected": preference.rejected_text,
        }
        for pair, preference in zip(pairs, preferences, strict=True)
    ]
    trainer = trl.DPOTrainer(
        AutoModelForCausalLM.from_pretrained(tmp_path / "policy", dtype=torch.float32),
        ref_model=AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32),
        args=arguments, train_dataset=Dataset.from_list(texts),
        processing_class=backbone.tokenizer,
    )  # fmt: skip
    batch = next(iter(trainer.get_train_dataloader()))
    loss = trainer.compute_loss(trainer.model, batch)
    assert loss.item() == pytest.approx(found["loss"], rel=1e-4)
    loss.backward()
    theirs_by_name = {n: p.grad for n, p in trainer.model.named_parameters()}
    assert theirs_by_name.keys() == learner.gradients.keys()
    for name, gradient in learner.gradients.items():
        torch.testing.assert_close(gradient, theirs_by_name[name], rtol=1e-3, atol=1e-5)


def start(model, preferences, folder, config):
    """(a policy that is away from its reference, the pairs, their reference log-probs)"""
    backbone = Backbone.load(model, "float32", train_fully=config.lora is None)
    backbone.add_role("policy", config.lora, 0)
    pairs = encode_pairs(backbone.tokenizer, preferences, 200, "error").pairs
    cache = ReferenceCache(folder, backbone.fingerprint, "float32")
    reference = reference_logprobs(backbone, pairs, config, cache, ALONE)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in backbone.role_parameters("policy").values():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return backbone, pairs, reference


def small(**settings) -> DPOConfig:
    base = {"dtype": "float32", "batch_size": 4, "checkpoint_every": 1, "max_tokens": 200}
    return DPOConfig(**(base | settings))


def test_the_loss_starts_at_log_2_and_falls_on_a_set_it_can_learn(
    tiny_model, polite_pairs, tmp_path
):
    config = small(epochs=10, learning_rate=1e-2)
    out = train(config, tiny_model, polite_pairs, tmp_path)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert lines[0]["margin"] == pytest.approx(0, abs=1e-5)
    assert lines[-1]["loss"] < 0.45
    assert lines[-1]["margin"] > 1
    assert lines[-1]["accuracy"] == 1.0


def test_the_sft_weight_adds_the_preferred_responses_loss_and_holds_it_down(
    tiny_model, polite_pairs, tmp_path
):
    settings = {"epochs": 2, "warmup": 0.0, "learning_rate": 1e-2}
    plain = metrics(train(small(**settings), tiny_model, polite_pairs, tmp_path / "plain"))
    with_sft = small(**settings, sft_weight=2.0)
    both = metrics(train(with_sft, tiny_model, polite_pairs, tmp_path / "both"))
    first = plain[0]["preferred_nll"]
    assert both[0]["preferred_nll"] == pytest.approx(first)
    assert both[0]["loss"] == pytest.approx(plain[0]["loss"] + 2 * first)
    assert both[-1]["preferred_nll"] < plain[-1]["preferred_nll"]


def test_its_folder_opens_in_peft_and_gives_the_trained_policy(tiny_model, polite_pairs, tmp_path):
    out = train(small(learning_rate=1e-2), tiny_model, polite_pairs, tmp_path)
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    ids = torch.tensor([[1, 5, 6, 7, 8]])
    before = base(ids).logits
    opened = peft.PeftModel.from_pretrained(base, out)
    ours = Backbone.load(tiny_model, "float32")
    ours.load_role("policy", out)
    expected = ours.hidden_states("policy", ids) @ ours.head_weight.T
    torch.testing.assert_close(opened(ids).logits, expected)
    assert (expected - before).abs().max() > 1e-3


@pytest.mark.parametrize("lora", [LoraConfig(rank=2), None])
def test_neither_micro_batches_nor_processes_change_the_gradient(lora, tiny_model, tmp_path):
    config = small(lora=lora)
    backbone, pairs, reference = start(tiny_model, varied_pairs(7), tmp_path, config)

    def gradients(budget: int, workers: ProcessGroup = ALONE) -> dict[str, torch.Tensor]:
        of = small(lora=lora, micro_batch_tokens=budget)
        learner = GradientKeeper([(backbone.role_parameters("policy"), 1e-3)], 1, of, workers)
        train_step(backbone, learner, pairs, reference, of, "here")
        return learner.gradients

    whole = gradients(100_000)
    scale = max(g.abs().max() for g in whole.values())
    assert scale > 1e-2
    others = [gradients(1), gradients(300)]
    others += [summed_over_processes(lambda w: gradients(300, w), count) for count in (2, 9)]
    for other in others:
        assert all((whole[n] - other[n]).abs().max() / scale < 1e-6 for n in whole)


def test_metrics_of_processes_add_up_to_those_of_one(tiny_model, tmp_path):
    backbone, pairs, reference = start(tiny_model, varied_pairs(5), tmp_path, small())
    whole = evaluate(backbone, pairs, reference, small(), ALONE, "")
    shares = [evaluate(backbone, pairs, reference, small(), OneOfSeveral(r, 2), "") for r in (0, 1)]
    for name, value in whole.items():
        assert shares[0][name] + shares[1][name] == pytest.approx(value, abs=1e-5)


# ── the reference ──────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def computed(monkeypatch):
    """How many pairs' reference log-probs were computed, batch by batch."""
    counts = []
    whole = Backbone.response_sums

    def response_sums(self, role, batch, temperature=1.0):
        if role is None:
            counts.append(len(batch.ids))
        return whole(self, role, batch, temperature)

    monkeypatch.setattr(Backbone, "response_sums", response_sums)
    return counts


def test_another_training_on_the_same_pairs_computes_no_reference(
    tiny_model, polite_pairs, tmp_path, computed
):
    shared = tmp_path / "shared"
    train(small(), tiny_model, polite_pairs, tmp_path / "a", reference_cache=shared)
    assert sum(computed) == 8
    other = small(beta=0.5, loss="ipo_sum", seed=3)
    train(other, tiny_model, polite_pairs, tmp_path / "b", reference_cache=shared)
    assert sum(computed) == 8
    more = [*polite_pairs, preference(99, "Yes please.", "No.")]
    train(small(), tiny_model, more, tmp_path / "c", reference_cache=shared)
    assert sum(computed) == 9


def test_cached_references_give_the_training_that_computed_ones_give(
    tiny_model, polite_pairs, tmp_path
):
    train(small(), tiny_model, polite_pairs, tmp_path / "a", reference_cache=tmp_path / "shared")
    train(small(), tiny_model, polite_pairs, tmp_path / "b", reference_cache=tmp_path / "shared")
    assert_same_outcome(tmp_path / "a", tmp_path / "b")


def test_killed_while_the_reference_is_computed_it_goes_on_with_the_rest(
    tiny_model, tmp_path, computed, monkeypatch
):
    config, pairs = small(micro_batch_tokens=120), varied_pairs()
    train(config, tiny_model, pairs, tmp_path / "whole")
    batches = len(computed)
    assert batches > 3
    computed.clear()
    with monkeypatch.context() as patch:
        append = ReferenceCache.append

        def killed(self, found):
            if len(computed) > 2:
                raise KilledError
            append(self, found)

        patch.setattr(ReferenceCache, "append", killed)
        with pytest.raises(KilledError):
            train(config, tiny_model, pairs, tmp_path / "parts")
    train(config, tiny_model, pairs, tmp_path / "parts")
    assert len(computed) == batches + 1  # the batch that was killed, twice
    assert_same_outcome(tmp_path / "whole", tmp_path / "parts")


def test_a_reference_that_is_not_finite_is_refused_and_not_kept(tiny_model, polite_pairs, tmp_path):
    backbone = Backbone.load(tiny_model, "float32")
    with torch.no_grad():
        backbone.model.get_input_embeddings().weight[10:] = float("nan")
    pairs = encode_pairs(backbone.tokenizer, polite_pairs, 200, "error").pairs
    cache = ReferenceCache(tmp_path, backbone.fingerprint, "float32")
    with pytest.raises(TrainingError, match=r"reference log-probs of pairs pair-.* not all finite"):
        reference_logprobs(backbone, pairs, small(), cache, ALONE)
    assert not cache.path.exists()


# ── resuming, full fine-tuning, held-out pairs ─────────────────────────────────────────────────


@pytest.mark.parametrize("lora", [LoraConfig(rank=2), None])
def test_ten_steps_a_kill_and_ten_more_are_twenty_to_the_bit(
    lora, tiny_model, polite_pairs, tmp_path, monkeypatch
):
    config = small(lora=lora, epochs=10, checkpoint_every=5, eval_every=7)
    arguments = config, tiny_model, polite_pairs[:7]
    train(*arguments, tmp_path / "whole", polite_pairs[7:])
    with monkeypatch.context() as patch:
        kill_after(patch, 12)  # two steps are done again
        with pytest.raises(KilledError):
            train(*arguments, tmp_path / "parts", polite_pairs[7:])
    train(*arguments, tmp_path / "parts", polite_pairs[7:])
    assert [line["step"] for line in metrics(tmp_path / "parts")] == list(range(1, 21))
    assert_same_outcome(tmp_path / "whole", tmp_path / "parts")


def test_full_fine_tuning_starts_at_log_2_and_leaves_a_model_that_transformers_opens(
    tiny_model, polite_pairs, tmp_path
):
    config = small(lora=None, epochs=6, learning_rate=1e-2)
    out = train(config, tiny_model, polite_pairs, tmp_path)
    lines = metrics(out)
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert lines[-1]["loss"] < 0.45
    ids = torch.tensor([[1, 5, 6, 7, 8]])
    logits = [
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)(ids).logits
        for path in (tiny_model, out)
    ]
    assert (logits[0] - logits[1]).abs().max() > 1e-3


def test_heldout_pairs_are_evaluated_every_so_many_steps_and_after_the_last(
    tiny_model, polite_pairs, tmp_path
):
    config = small(epochs=3, eval_every=4, batch_size=3)  # 2 steps an epoch, 6 in all
    out = train(config, tiny_model, polite_pairs[:5], tmp_path, polite_pairs[5:])
    assert [line["step"] for line in metrics(out) if "heldout_loss" in line] == [4, 6]
    other = train(small(), tiny_model, polite_pairs[:5], tmp_path / "epoch", polite_pairs[5:])
    assert [line["step"] for line in metrics(other) if "heldout_loss" in line] == [2, 4]


def test_the_held_out_loss_falls_where_the_pairs_share_what_is_learned(
    tiny_model, polite_pairs, tmp_path
):
    config = small(epochs=8, learning_rate=1e-2)
    out = train(config, tiny_model, polite_pairs[:6], tmp_path, polite_pairs[6:])
    looks = [line for line in metrics(out) if "heldout_loss" in line]
    assert looks[-1]["heldout_loss"] < looks[0]["heldout_loss"]
    assert looks[-1]["heldout_accuracy"] == 1.0
    assert looks[-1]["heldout_margin"] > 0.5


def overfitted(folder, tiny_model, keep):
    """Trained on the contrary of what is held out: the first look is the best one."""
    pairs = [preference(i, f"Yes, {i} please.", f"No {i}!", 0.99) for i in range(4)]
    contrary = [preference(i, f"No {i}!", f"Yes, {i} please.", 0.99) for i in range(4, 6)]
    config = small(epochs=4, learning_rate=5e-3, warmup=0, keep=keep, eval_every=1)
    return train(config, tiny_model, pairs, folder, contrary)


def test_the_last_policy_is_left_unless_keep_is_best(tiny_model, tmp_path):
    last = overfitted(tmp_path / "last", tiny_model, "last")
    best = overfitted(tmp_path / "best", tiny_model, "best")
    losses = [line["heldout_loss"] for line in metrics(last)]
    assert losses == [line["heldout_loss"] for line in metrics(best)]
    assert losses.index(min(losses)) == 0
    kept = torch.load(best / "checkpoints" / "best.pt", weights_only=True)
    assert kept["step"] == 1
    left = {name.split("/base_model.model.")[1]: w for name, w in weights(best).items()}
    for name, parameter in kept["learner"]["parameters"].items():
        assert torch.equal(left[name.replace(".policy.", ".")], parameter)
    assert not all(torch.equal(w, weights(last)[name]) for name, w in weights(best).items())


def test_keep_can_be_set_to_best_when_training_is_over(tiny_model, tmp_path):
    best = weights(overfitted(tmp_path / "best", tiny_model, "best"))
    overfitted(tmp_path / "last", tiny_model, "last")
    after = weights(overfitted(tmp_path / "last", tiny_model, "best"))
    assert all(torch.equal(best[name], after[name]) for name in best)


def test_a_best_checkpoint_that_is_cut_or_gone_is_reported(tmp_path):
    config = small(keep="best")
    run = Run(tmp_path, {}, config, ALONE)
    run.save(1, {"learner": {}}, score=None)
    with pytest.raises(TrainingError, match=r"best checkpoint cannot be read \(it is gone\)"):
        load_kept(config, run, None)
    run.save(2, {"learner": {}}, score=-1.0)
    best = tmp_path / "checkpoints" / "best.pt"
    best.unlink()
    best.write_bytes(b"PK cut")
    with pytest.raises(TrainingError, match=r"best checkpoint cannot be read \(.*set keep=last"):
        load_kept(config, run, None)


def test_settings_of_held_out_pairs_without_any_are_refused(tiny_model, polite_pairs, tmp_path):
    with pytest.raises(TrainingError, match="eval_every=3 and keep=best: there are no held-out"):
        train(small(eval_every=3, keep="best", text_eval=None), tiny_model, polite_pairs, tmp_path)
    with pytest.raises(TrainingError, match="keep=best: there are no held-out pairs"):
        train(small(eval_every=3, keep="best"), tiny_model, polite_pairs, tmp_path)


# ── bad input ──────────────────────────────────────────────────────────────────────────────────


def test_a_loss_that_is_not_finite_stops_before_the_step_and_the_checkpoint_stays(
    tiny_model, polite_pairs, tmp_path, monkeypatch
):
    def spoilt(pairs, prob_chosen, config):
        spoilt.calls += 1
        return pairs.chosen * (float("nan") if spoilt.calls > 3 else 1.0)

    spoilt.calls = 0
    monkeypatch.setitem(LOSSES, "sigmoid", Loss(spoilt, DPOConfig))
    with pytest.raises(TrainingError, match=r"DPO, step 4: the loss is nan; .*learning_rate"):
        train(small(loss="sigmoid"), tiny_model, polite_pairs, tmp_path)
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2, 3]
    assert (tmp_path / "checkpoints" / "step-000003.pt").is_file()


@pytest.mark.parametrize("held", [False, True])
def test_an_empty_response_or_a_long_prompt_is_named_or_skipped_and_counted(
    held, tiny_model, polite_pairs, tmp_path, capsys
):
    empty, long = preference(9, "a", " "), preference(10**220, "a", "b")
    for bad, what in ((empty, r"pair-9 \(rejected\): the response is empty"), (long, "do not fit")):
        more = [*polite_pairs, bad]
        sets = (polite_pairs, more) if held else (more, polite_pairs)
        with pytest.raises(BatchError, match=what):
            train(small(), tiny_model, sets[0], tmp_path / "no", sets[1])
    more = [*polite_pairs, empty, long]
    sets = (polite_pairs, more) if held else (more, polite_pairs)
    train(small(unusable="skip"), tiny_model, sets[0], tmp_path / "yes", sets[1])
    assert "left out 2 records" in capsys.readouterr().err
    assert metrics(tmp_path / "yes")[-1]["skipped"] == (0 if held else 2)


def test_the_pad_token_makes_no_difference(make_tiny_model, tiny_model, polite_pairs, tmp_path):
    same = make_tiny_model(pad="<|im_end|>")
    for name, model in (("a", tiny_model), ("b", same)):
        train(small(), model, polite_pairs, tmp_path / name)
    assert_same_outcome(tmp_path / "a", tmp_path / "b")
