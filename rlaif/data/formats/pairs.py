"""Data sets of pairs that only name or write the parts of a pair in their own way.

hh_rlhf        https://github.com/anthropics/hh-rlhf: `chosen` and `rejected` are transcripts,
               "\\n\\nHuman: ...\\n\\nAssistant: ...", that part at the last reply. Also
               read: copies with such a transcript as `prompt`.
orca_dpo       https://huggingface.co/datasets/Intel/orca_dpo_pairs: system, question, chosen,
               rejected. In argilla's copy (distilabel-intel-orca-dpo-pairs) the question is
               `input`, and `status` may be "tie".
llama_factory  https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md, preference data:
               instruction, input, chosen, rejected; or conversations (from, value), chosen,
               rejected.
ultrafeedback_binarized
               https://huggingface.co/datasets/HuggingFaceH4/ultrafeedback_binarized: TRL's
               columns with score_chosen and score_rejected; equal scores are left out.
reward_bench   https://huggingface.co/datasets/allenai/reward-bench: TRL's columns with the models
               and the subset.

All become a row of TRL's, so that `system`, scores, `prob_chosen` and `id` count here as there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from rlaif.data.formats.base import (
    Converted,
    Fields,
    Format,
    LeftOut,
    Turn,
    assistant,
    by_row,
    has,
    text,
    user,
    wrong,
)
from rlaif.data.formats.chat import conversation, instruction_turns
from rlaif.data.formats.trl import COLUMNS, preference

_SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant):")


def transcript(written: str, name: str, where: str) -> list[Turn]:
    """The turns of a transcript; an open "Assistant:" at its end is not one.

    Turns of one speaker in a row are joined by a blank line. Raises RecordError if the text does
    not begin with a speaker.
    """
    before, *parts = _SPEAKER.split("\n\n" + written.lstrip())
    if before.strip() or not parts:
        raise wrong(where, name, 'a transcript that begins with "Human:"', written)
    turns: list[Turn] = []
    for speaker, said in zip(parts[::2], parts[1::2], strict=True):
        content = said.strip()
        turn = user(content) if speaker == "Human" else assistant(content)
        if turns and turns[-1]["role"] == turn["role"]:
            turns[-1]["content"] += f"\n\n{content}"
        else:
            turns.append(turn)
    if turns[-1] == assistant(""):
        turns.pop()
    return turns


def _is_transcript(value: object) -> bool:
    return isinstance(value, str) and value.lstrip().startswith(("Human:", "Assistant:"))


def _is_hh(fields: Fields) -> bool:
    if fields.get("prompt") is None:
        return all(_is_transcript(fields.get(name)) for name in ("chosen", "rejected"))
    return _is_transcript(fields["prompt"]) and "chosen" in fields and "rejected" in fields


def _hh(fields: Fields, where: str) -> Iterator[Converted]:
    if fields.get("prompt") is not None:
        prompt = transcript(text(fields, "prompt", where), "prompt", where)
        chosen, rejected = fields.get("chosen"), fields.get("rejected")
        yield preference(
            {**fields, "prompt": prompt, "chosen": chosen, "rejected": rejected}, where
        )
        return
    chosen, rejected = (
        transcript(text(fields, name, where), name, where) for name in ("chosen", "rejected")
    )
    if chosen == rejected:
        yield LeftOut("identical responses")
    elif chosen[-1:] == rejected[-1:] or chosen[:-1] != rejected[:-1]:
        yield LeftOut("conversations that part before their last reply")
    elif chosen[-1]["role"] != "assistant" or rejected[-1]["role"] != "assistant":
        yield LeftOut("no reply at the end")
    else:
        parts = {"prompt": chosen[:-1], "chosen": chosen[-1:], "rejected": rejected[-1:]}
        yield preference({**fields, **parts}, where)


def _orca(fields: Fields, where: str) -> Iterator[Converted]:
    if fields.get("status") == "tie":
        yield LeftOut("equal scores")
        return
    prompt = [user(text(fields, _question(fields), where))]
    yield preference({**fields, "prompt": prompt}, where)


def _question(fields: Fields) -> str:
    return "question" if "question" in fields else "input"


def _is_orca(fields: Fields) -> bool:
    asked = "question" in fields or {"system", "input"} <= fields.keys()
    return asked and {"chosen", "rejected"} <= fields.keys() and "prompt" not in fields


def _is_llama_factory(fields: Fields) -> bool:
    return {"chosen", "rejected"} <= fields.keys() and bool(
        {"instruction", "conversations"} & fields.keys()
    )


def _llama_factory(fields: Fields, where: str) -> Iterator[Converted]:
    if "conversations" in fields:
        prompt = conversation(fields, where)
        replies = {
            name: conversation({"conversations": [fields.get(name)]}, where, name)
            for name in ("chosen", "rejected")
        }
        yield preference({**fields, **replies, "prompt": prompt}, where)
        return
    # `history` is in the prompt now, and no longer a column to refuse.
    prompt = instruction_turns(fields, where)
    yield preference({**fields, "prompt": prompt, "history": None}, where)


def _as_it_is(fields: Fields, where: str) -> Iterator[Converted]:
    yield preference(fields, where)


HH_RLHF = Format(
    recognize=_is_hh,
    convert=by_row(_hh),
    columns=COLUMNS,
    url="https://github.com/anthropics/hh-rlhf",
)
ORCA_DPO = Format(
    recognize=_is_orca,
    convert=by_row(_orca),
    columns=COLUMNS | {"question", "input", "status"},
    url="https://huggingface.co/datasets/Intel/orca_dpo_pairs",
)
LLAMA_FACTORY = Format(
    recognize=_is_llama_factory,
    convert=by_row(_llama_factory),
    columns=COLUMNS | {"instruction", "input", "conversations"},
    url="https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md",
)
ULTRAFEEDBACK_BINARIZED = Format(
    recognize=has("prompt", "chosen", "rejected", "score_chosen", "score_rejected"),
    convert=by_row(_as_it_is),
    columns=COLUMNS,
    url="https://huggingface.co/datasets/HuggingFaceH4/ultrafeedback_binarized",
)
REWARD_BENCH = Format(
    recognize=has("prompt", "chosen", "rejected", "chosen_model", "rejected_model", "subset"),
    convert=by_row(_as_it_is),
    columns=COLUMNS,
    url="https://huggingface.co/datasets/allenai/reward-bench",
)
