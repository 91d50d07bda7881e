"""The sections of responses: what a sample stage drew, and what each policy of a respond stage
answers to the same prompts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rlaif.data.records import Prompt, Sample, read_jsonl
from rlaif.report.excerpts import excerpt, prompts_that_fit
from rlaif.report.inputs import ReportInputs, StageFolder
from rlaif.report.sections.base import SectionContent

SAMPLES = "samples.jsonl"
START = "start"


def sample_section(stage: StageFolder, _: ReportInputs) -> SectionContent:
    """All responses that were drawn, by prompt."""
    samples = stage.load(SAMPLES, _read)
    if not samples:
        return SectionContent("responses.html.j2", None, (SAMPLES,) if samples is None else ())
    return SectionContent("responses.html.j2", _values({"": samples}))


def respond_section(stage: StageFolder, _: ReportInputs) -> SectionContent:
    """Every policy's responses, the starting policy first."""
    policies = policy_samples(stage)
    if not policies:
        return SectionContent("responses.html.j2", None, (f"{START}.jsonl",))
    return SectionContent("responses.html.j2", _values(policies))


def policy_samples(stage: StageFolder) -> dict[str, list[Sample]]:
    """Policy → its samples, from the <policy>.jsonl files of a respond stage, start first."""
    names = sorted(
        (path.stem for path in stage.folder.glob("*.jsonl") if "." not in path.stem),
        key=lambda name: (name != START, name),
    )
    return {name: stage.load(f"{name}.jsonl", _read) or [] for name in names}


def prompt_topics(stages: Iterable[StageFolder]) -> dict[str, str]:
    """Prompt id → topic, as recorded with the responses of the respond stages."""
    return {
        sample.prompt.id: sample.prompt.topic
        for stage in stages
        if stage.kind == "respond"
        for sample in stage.load(f"{START}.jsonl", _read) or []
        if sample.prompt.topic
    }


def _read(path: Path) -> list[Sample]:
    return read_jsonl(path, Sample)


def _values(policies: dict[str, list[Sample]]) -> dict[str, Any]:
    """A table row per policy, and the prompts with the responses of all; "" is no policy."""
    groups: dict[str, list[tuple[str, Sample]]] = {}
    prompts: dict[str, Prompt] = {}
    for policy, samples in policies.items():
        for sample in samples:
            prompts.setdefault(sample.prompt.id, sample.prompt)
            groups.setdefault(sample.prompt.id, []).append((policy, sample))
    most = max(map(len, groups.values()), default=0)
    ids = list(groups)
    shown = [ids[place] for place in prompts_that_fit(len(ids), most)]
    return {
        "statistics": [_statistics(policy, samples) for policy, samples in policies.items()],
        "policies": [policy for policy in policies if policy],
        "topics": sorted({prompts[id].topic for id in shown} - {""}),
        "prompts": len(ids),
        "rows": [_row(prompts[id], groups[id]) for id in shown],
    }


def _statistics(policy: str, samples: Sequence[Sample]) -> dict[str, Any]:
    return {
        "policy": policy,
        "responses": len(samples),
        "prompts": len({sample.prompt.id for sample in samples}),
        "tokens": fmean(sample.tokens for sample in samples) if samples else None,
        "complete": fmean(sample.complete for sample in samples) if samples else None,
    }


def _row(prompt: Prompt, responses: Sequence[tuple[str, Sample]]) -> dict[str, Any]:
    return {
        "prompt": [(message.role, excerpt(message.content)) for message in prompt.messages],
        "topic": prompt.topic,
        "responses": [
            {
                "name": policy or f"response {sample.index + 1}",
                "policy": policy,
                "note": f"{sample.tokens} tokens" + ("" if sample.complete else ", cut off"),
                "text": excerpt(sample.response),
            }
            for policy, sample in responses
        ],
    }
