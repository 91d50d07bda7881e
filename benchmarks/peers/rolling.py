"""What the benchmarks of PPO share: options, job, sides."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.peers import comparing
from benchmarks.peers.data import choose_prompts
from benchmarks.peers.endless import endless
from rlaif.data.records import Prompt, Sample, read_jsonl, write_jsonl


def add_options(parser: argparse.ArgumentParser, prompts: int, response_tokens: int) -> None:
    """The options of a benchmark of PPO. prompts, response_tokens: their defaults."""
    parser.add_argument("--prompts", type=int, default=prompts, help="responses per iteration")
    parser.add_argument("--prompt-tokens", type=int, default=160, help="longer ones are left out")
    parser.add_argument("--response-tokens", type=int, default=response_tokens, help="of every one")
    parser.add_argument("--update-batch", type=int, default=4, help="responses per optimizer step")
    parser.add_argument("--epochs", type=int, default=1, help="passes over a rollout")
    parser.add_argument(
        "--value",
        choices=("head", "adapter"),
        default="head",
        help="ours: on the policy's own hidden states, or a model of its own as the peer's",
    )


def job_of(
    options: argparse.Namespace, folder: Path, iterations: int, group: int = 1
) -> dict[str, Any]:
    """The job of both sides, its files written: the model that never ends a response, prompts.

    group: responses to each prompt, of which there are so many fewer.
    """
    import transformers

    if options.prompts % options.update_batch or options.prompts % group:
        raise SystemExit("--prompts must be a multiple of --update-batch and of --group")
    job = comparing.common_job(options)
    model = endless(job["model"], folder / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    distinct = options.prompts // group
    prompts, ids = choose_prompts(tokenizer, options.data, distinct, options.prompt_tokens)
    write_jsonl(folder / "prompts.jsonl", prompts)
    return {
        **job,
        "algorithm": "ppo",
        "model": model,
        "records": str(folder / "prompts.jsonl"),
        "prompts": [each for each in ids for _ in range(group)],  # one per response
        "group": group,
        "reward": str(folder / "reward"),
        "iterations": iterations,
        "update_batch": options.update_batch,
        "epochs": options.epochs,
        "response_tokens": options.response_tokens,
        "value": options.value,
        "max_tokens": options.prompt_tokens + options.response_tokens,
        "engine": "auto",
        "prepare": False,
    }


def prepare(job: dict[str, Any], folder: Path) -> None:
    """Write the reward model that both sides use."""
    comparing.side("our_ppo", {**job, "prepare": True})(folder / "prepare")


def described(options: argparse.Namespace, job: dict[str, Any]) -> str:
    """The setup with the numbers and lengths of prompts and responses, for a result's name."""
    count = len(job["prompts"])
    prompt = sum(map(len, job["prompts"])) / count
    return (
        f"{comparing.described(options, job)}; {count // job['group']} prompts of {prompt:.0f} "
        f"tokens, {job['group']} responses to each of {job['response_tokens']}, {job['epochs']} "
        f"passes of {count // job['update_batch']} updates"
    )


def sft_job(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The job of SFT on one batch of the very shape of a rollout, in two equal steps.

    The prompts are the same, each with a response of as many tokens as PPO's have.
    """
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(job["model"])
    text = "the" + " the" * (job["response_tokens"] - 2)
    response = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
    assert len(response) == job["response_tokens"], "a word of one token was expected"
    write_jsonl(
        folder / "samples.jsonl",
        [
            Sample(prompt=p, index=0, response=text, tokens=len(response), complete=True, seed=0)
            for p in read_jsonl(Path(job["records"]), Prompt)
        ],
    )
    every = list(range(len(job["prompts"])))
    return {
        **job,
        "algorithm": "sft",
        "samples": str(folder / "samples.jsonl"),
        "rows": [[ids, response, []] for ids in job["prompts"]],
        "order": [every, every],
        "batch": len(every),
        "epochs": 2,
        "initial": job["reward"],
    }
