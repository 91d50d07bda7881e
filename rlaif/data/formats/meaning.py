"""Columns that change what a row of TRL's shapes means: respected or refused, never dropped."""

from __future__ import annotations

import difflib
import re
from functools import lru_cache

from rlaif.data.formats.base import WEIGHTS, Fields, Turn, number, optional_text
from rlaif.data.records import ENDS, Preference, RecordError
from rlaif.data.rows import shown, shown_name

_LIKE_OURS = 0.85  # difflib's ratio from which a column is a misspelled one of ours

_SCORE = re.compile("score|rating|reward")

SYSTEM = ("system", "system_prompt")
"""Columns with a system message."""

NOT_TEXT = ("tools", "images", "image", "videos", "audios", "history", "chat_template_kwargs")
"""Columns that add something to the prompt which these shapes do not carry."""

_VERDICTS = ("status", "winner")
"""Columns that may say "tie"."""

_LIKE_PROMPTS = ("question", "instruction", "input", "query", "context", "messages")
"""Columns in which other data sets keep a prompt."""


def why_left_out(fields: Fields, where: str) -> str:
    """Why the row's own columns say that it must not be learned from; "" where they do not."""
    if not _label(fields, where):
        return "label: false"
    if _flag(fields, "deleted", where, "it does not say that the row is withdrawn"):
        return "deleted"
    if fields.get("prob_chosen") is not None:
        return ""
    if _flag(fields, "tie", where, "it does not say that neither response is better") or any(
        fields.get(name) == "tie" for name in _VERDICTS
    ):
        return "equal scores"
    for better, worse in _score_columns(tuple(fields)):
        chosen, rejected = number(fields.get(better)), number(fields.get(worse))
        if chosen is not None and rejected is not None and chosen <= rejected:
            return "equal scores" if chosen == rejected else "a lower score of chosen"
    rating = fields.get("rating")
    if isinstance(rating, list) and len(rating) == 2 and rating[0] == rating[1] is not None:
        return "equal scores"
    return ""


@lru_cache(maxsize=64)  # the rows of a file have the same columns
def _score_columns(names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """The pairs of columns that score chosen and rejected, by their names."""
    pairs = ((name, name.replace("chosen", "rejected")) for name in names if _SCORE.search(name))
    return tuple((better, worse) for better, worse in pairs if better != worse and worse in names)


def _label(fields: Fields, where: str) -> bool:
    """The label of an unpaired preference; true where there is none."""
    for name in ("label", "kto_tag"):
        label = _flag(fields, name, where, "it does not say whether the response is a good one")
        if label is False:
            return False
    return True


def _flag(fields: Fields, name: str, where: str, otherwise: str) -> bool | None:
    """A column of true and false, or 1 and 0; None where the row has none. otherwise: why a column
    of this name may hold something else."""
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, bool | int) or value not in (0, 1):
        raise RecordError(
            f"{where}: {name}: true or false is needed (found {shown(value)}); rename the "
            f"column if {otherwise}"
        )
    return bool(value)


def refuse_other_inputs(fields: Fields, where: str) -> None:
    """Raise where the prompt is more than its text: tools, images and the like."""
    for name in NOT_TEXT:
        if fields.get(name) not in (None, "", "[]", [], {}):
            raise RecordError(
                f"{where}: {name}: part of the prompt, but only messages of text are read; remove "
                "the rows that have it, or the column if the responses do not depend on it"
            )


def refuse_other_prompts(fields: Fields, where: str) -> None:
    """Raise where a column that is not read looks like the prompt that is missing."""
    for name in _LIKE_PROMPTS:
        if fields.get(name) not in (None, "", []):
            raise RecordError(
                f"{where}: prompt: there is none, but a column {name}; rename it to prompt if it "
                "is what chosen and rejected answer, or remove it"
            )


def refuse_misspelled(fields: Fields, where: str) -> None:
    """Raise where a column's name is nearly one of a Preference."""
    if problem := _misspelled(tuple(fields)):
        raise RecordError(f"{where}: {problem}")


@lru_cache(maxsize=64)  # the rows of a file have the same columns
def _misspelled(names: tuple[str, ...]) -> str:
    ours = Preference.model_fields.keys() - set(ENDS)  # others have chosen_completion, chosen_token
    for name in sorted(set(names) - ours - set(ENDS)):
        near = difflib.get_close_matches(name[:64], ours - set(names), n=1, cutoff=_LIKE_OURS)
        if near:
            return f"{shown_name(name)}: unknown field; did you mean {near[0]}?"
    return ""


# ── turns ──────────────────────────────────────────────────────────────────────────────────────


def with_system(prompt: list[Turn], fields: Fields, where: str) -> list[Turn]:
    """The prompt, begun by the system message of a `system` column unless it has the same."""
    for name in SYSTEM:
        content = optional_text(fields, name, where)
        message = {"role": "system", "content": content}
        if not content or (prompt and prompt[0] == message):
            continue
        if prompt and prompt[0].get("role") == "system":
            raise RecordError(
                f"{where}: {name}: another system message than the one the conversation begins "
                "with; keep one of them"
            )
        prompt = [message, *prompt]
    return prompt


def ends_with_user(prompt: list[Turn], name: str, where: str) -> list[Turn]:
    """The prompt as it is. Raises where its last turn is not the user's; `name` is its field."""
    role = prompt[-1].get("role")
    if role == "assistant":
        raise RecordError(
            f"{where}: {name}: ends with a turn of the assistant (a prefill), which a chat "
            "template closes before the response; move its text to the beginning of the "
            "responses, or delete this line"
        )
    if role == "system":
        raise RecordError(
            f"{where}: {name}: has no turn of the user after the system message; add it, or delete "
            "this line"
        )
    return prompt


def without_weight(turn: Turn) -> Turn:
    """A turn without weights of 0 or 1; others remain, and are refused as unknown fields."""
    return {key: v for key, v in turn.items() if key not in WEIGHTS or v not in (0, 1)}
