"""Arguments of a wrong type: refused in words that name the argument and what to give."""

from __future__ import annotations

import pytest

import rlaif
from constitution import Constitution
from constitution.errors import UserError
from judge_service import JudgeClient
from rlaif.algorithms.sft.sources import SFTSource

ROW = {"prompt": "Say hello.", "chosen": "Hello.", "rejected": "No.", "prob_chosen": 0.9}
PROMPT = {"id": "a", "messages": [{"role": "user", "content": "hi"}]}
SAMPLES = [
    {"prompt": PROMPT, "response": text, "index": n, "tokens": 1, "complete": True, "seed": 0}
    for n, text in enumerate(["yes", "no"])
]
LABEL = {"samples": SAMPLES, "judge": "org/judge"}
HERE = {"samples": SAMPLES, "server": "127.0.0.1:1"}
DPO = {"labels": [ROW], "model": "org/model"}
PPO = {"prompts": ["a"], "model": "org/model", "reward": "json:dumps"}
EVALUATE = {"responses": {"dpo": SAMPLES}, "start": SAMPLES, "judge": "org/judge"}
SFT = {"lessons": [ROW], "model": "org/model"}
SAMPLE = {"prompts": ["a", "b"], "model": "org/model", "engine": "transformers"}
MERGE = {"model": "org/model", "adapter": "no-such-adapter"}


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        ("sample", SAMPLE | {"model": None}, "invalid model: None; give a short name, a folder or"),
        ("sample", SAMPLE | {"model": ""}, "invalid model: ''; give a short name, a folder or"),
        ("sample", SAMPLE | {"model": "~nobody-here/m"}, "~nobody-here/m: no such model folder"),
        ("sample", SAMPLE | {"out": 3}, "invalid out: 3; give a path as text or pathlib.Path"),
        ("sample", SAMPLE | {"out": "/"}, "out is a folder: /; give a file, such as /samples"),
        ("sample", SAMPLE | {"split": 3}, "invalid split: 3; give train, heldout, or '' for all"),
        ("sample", SAMPLE | {"limit": "3"}, "invalid limit: 3; give 1 or more, or None"),
        ("sample", SAMPLE | {"limit": 1.5}, "invalid limit: 1.5; give 1 or more, or None"),
        ("sample", SAMPLE | {"config": [3]}, "3 is not a setting; write key=value"),
        ("label", LABEL | {"judge": 3}, "invalid judge: 3; give a model's short name, folder"),
        ("label", {"samples": SAMPLES, "server": 50051}, 'invalid server: 50051; give "HOST:PORT'),
        ("label", HERE | {"wait": "long"}, "invalid wait: 'long'; give seconds, 0 or more"),
        ("label", HERE | {"wait": float("nan")}, "invalid wait: nan; give seconds, 0 or more"),
        (
            "label",
            LABEL | {"constitution": None},
            "invalid constitution: None; give a name, a YAML",
        ),
        (
            "label",
            LABEL | {"options": {"seed": 3}},
            "invalid options: {'seed': 3}; give judge_serv",
        ),
        (
            "label",
            LABEL | {"sample_principles": 0},
            "invalid sample_principles: 0; give an integer",
        ),
        ("label", LABEL | {"seed": "x"}, "invalid seed: 'x'; give an integer"),
        ("label", LABEL | {"pairs_per_prompt": "all"}, "invalid pairs_per_prompt: 'all'; give an"),
        ("label", LABEL | {"max_length_ratio": 0.5}, "invalid max_length_ratio: 0.5; give 1"),
        ("label", LABEL | {"max_length_ratio": "2"}, "invalid max_length_ratio: '2'; give a nu"),
        ("label", LABEL | {"out": None}, "invalid out: None; give a path"),
        (
            "update_labels",
            LABEL | {"constitution": "hhh", "old": 3},
            "invalid old: 3; give a name, a YAML file or a Constitution",
        ),
        ("revise", LABEL | {"gate": "sure"}, "invalid gate: 'sure'; give a probability from 0.5"),
        ("revise", LABEL | {"rounds": 0}, "invalid rounds: 0; give an integer, 1 or more"),
        ("revise", LABEL | {"pilot": 1.5}, "invalid pilot: 1.5; give an integer, 1 or more"),
        ("revise", HERE | {"seed": "x"}, "invalid seed: 'x'; give an integer"),
        ("evaluate", EVALUATE | {"responses": [SAMPLES]}, "invalid responses: list; give each pol"),
        (
            "evaluate",
            EVALUATE | {"responses": {"start": SAMPLES}},
            "responses: the name start is taken; rename it",
        ),
        (
            "evaluate",
            EVALUATE | {"start": SAMPLES[:1]},
            "dpo: the start has no response 1 to prompt 'a'; sample both policies on the same",
        ),
        ("evaluate", EVALUATE | {"seed": "x"}, "invalid seed: 'x'; give an integer"),
        ("train_dpo", DPO | {"out": 3}, "invalid out: 3; give a path"),
        ("train_dpo", DPO | {"model": 3}, "invalid model: 3; give a short name"),
        ("train_dpo", DPO | {"reference_cache": 3}, "invalid reference_cache: 3; give a path"),
        ("train_sft", SFT | {"mix": "0.2*x.jsonl"}, "invalid mix: '0.2*x.jsonl'; give a list of"),
        ("train_sft", SFT | {"mix": None}, "invalid mix: None; give a list of sources"),
        ("train_sft", SFT | {"lessons": SFTSource("x", "f")}, "source x: expected records and a"),
        ("train_reward", DPO | {"constitution": 3}, "invalid constitution: 3; give a name, a YAML"),
        ("train_ppo", PPO | {"reward": [len]}, "invalid reward: [<built-in function len>]; give a"),
        ("train_ppo", PPO | {"reward": [3]}, "invalid reward: [3]; give a reward model's folder"),
        ("merge_adapter", MERGE | {"adapter": 3}, "invalid adapter: 3; give a path"),
        ("merge_adapter", MERGE | {"dtype": "int3"}, "invalid dtype: 'int3'; expected one of: "),
    ],
)
def test_an_argument_of_a_wrong_type_is_named_with_what_to_give(function, arguments, message):
    with pytest.raises(UserError) as error:
        getattr(rlaif, function)(**arguments)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Constitution.load(3), "3: invalid constitution (give a name or a path)"),
        (lambda: JudgeClient(None), "invalid address: None; give host:port as text"),
        (lambda: JudgeClient("127.0.0.1:1", ca="gone.pem"), "gone.pem"),
        (lambda: rlaif.Recipe.load(3), "invalid recipe: 3; give a path as text or pathlib.Path"),
    ],
)
def test_what_is_made_from_a_wrong_type_is_refused_in_words(call, message):
    with pytest.raises(UserError) as error:
        call()
    assert message in str(error.value)


def test_a_mix_may_come_from_a_generator(tmp_path):
    from rlaif.api.pairs import plan_sft

    plan = plan_sft([ROW], mix=(source for source in [[ROW]]), model="org/model", out=tmp_path)
    assert plan.problems == []
    assert plan.counts == {"lessons": 1, "mix 1": 1}
