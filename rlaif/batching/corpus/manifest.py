"""What a corpus was made of, and whether it fits a training. Imports neither torch nor numpy.

Its key is the digest of all that its tokens depend on: the labels, the tokenizer, the chat template
with its variables, the tokens that end a response, max_tokens, and the version of the encoding.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from constitution.errors import UserError
from rlaif.batching.chat import end_ids, template_kwargs_of, turn_end_id
from rlaif.batching.unusable import Unusable
from rlaif.data.files import file_sha256
from rlaif.data.records import Preference, RecordError

MANIFEST = "manifest.json"
FORMAT = 1
"""Goes up with every change of the encoding, or of the files."""


class CorpusError(UserError):
    """A corpus that cannot be made or used; the message names it, the reason and the remedy."""


class MadeOf(BaseModel):
    """All that the tokens of a corpus depend on; data, tokenizer and chat_template are sha256."""

    model_config = ConfigDict(frozen=True)

    data: str  # of the files' contents, in order
    tokenizer: str
    chat_template: str
    chat_template_kwargs: dict[str, Any]
    end_tokens: tuple[int, ...]  # of a turn, then all that end a response
    max_tokens: int
    format: int = FORMAT

    @property
    def key(self) -> str:
        """sha256 (hex) of all of it."""
        return _sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True))


class CorpusManifest(BaseModel):
    """What a corpus holds, beside what it was made of."""

    made_of: MadeOf
    key: str
    model: str  # whose tokenizer it was, as it was called
    rows: int  # pairs
    tokens: int  # a pair's prompt counts once
    traits: tuple[str, ...]  # the columns of traits.npy
    left_out: int  # pairs that could not be used (unusable=skip)
    reasons: tuple[str, ...]  # the first of them
    example: Preference | None  # the first label with a receipt, which names its constitution


def made_of(files: Sequence[Path], tokenizer: Any, max_tokens: int, label: str = "") -> MadeOf:
    """What a corpus of these files of labels is made of; reads them whole, once.

    label: stands for the digest of the files where they are not known. Raises RecordError for a
    file that cannot be read.
    """
    return MadeOf(
        data=label or data_digest(files),
        tokenizer=tokenizer_digest(tokenizer),
        chat_template=_sha256(json.dumps(getattr(tokenizer, "chat_template", None))),
        chat_template_kwargs=template_kwargs_of(tokenizer),
        end_tokens=(turn_end_id(tokenizer), *sorted(end_ids(tokenizer))),
        max_tokens=max_tokens,
    )


def data_digest(files: Sequence[Path]) -> str:
    """sha256 (hex) of the contents of files, in order. Raises RecordError."""
    try:
        return _sha256("\n".join(map(file_sha256, files)))
    except OSError as error:
        raise RecordError(f"{error.filename}: cannot be read ({error.strerror})") from error


def tokenizer_digest(tokenizer: Any) -> str:
    """sha256 (hex) of how a tokenizer makes ids of a text: its whole state, but for the padding and
    truncation that a call may have set; of one in Python its class and vocabulary."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        state = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    else:
        state = json.loads(backend.to_str())
        state = {k: v for k, v in state.items() if k not in ("padding", "truncation")}
    return _sha256(json.dumps(state, sort_keys=True))


def is_corpus(path: Path) -> bool:
    """Whether a path is a finished corpus; an unfinished one has no manifest."""
    return (path / MANIFEST).is_file()


def read_manifest(folder: Path) -> CorpusManifest:
    """The manifest of a corpus. Raises CorpusError where there is none that can be read."""
    try:
        text = (folder / MANIFEST).read_text(encoding="utf-8")
        return CorpusManifest.model_validate_json(text)
    except (OSError, ValidationError) as error:
        why = getattr(error, "strerror", None) or "it was written by another version, or is damaged"
        raise CorpusError(
            f"{folder / MANIFEST}: cannot be read ({why}); give a folder of rlaif train prepare, "
            "or delete this one and prepare it again"
        ) from error


def require_fit(
    folder: Path, found: CorpusManifest, tokenizer: Any, max_tokens: int, unusable: Unusable
) -> None:
    """Raises CorpusError where training with this tokenizer and these settings would not read the
    tokens of the corpus."""
    require_settings(folder, found, max_tokens, template_kwargs_of(tokenizer), unusable)
    now = made_of((), tokenizer, max_tokens, found.made_of.data)
    if differ := differing(found.made_of, now):
        raise CorpusError(
            f"{folder}: made with another {', '.join(differ)} than this model's (it was made for "
            f"{found.model}); {_PREPARE} for this model"
        )


def require_settings(
    folder: Path, found: CorpusManifest, max_tokens: int, kwargs: Mapping[str, Any],
    unusable: Unusable,
) -> None:  # fmt: skip
    """The part of `require_fit` that needs no tokenizer. Raises CorpusError."""
    made = found.made_of
    remedies = []
    if made.format != FORMAT:
        remedies.append(f"format {made.format}, now {FORMAT}: {_PREPARE}")
    if made.max_tokens != max_tokens:
        remedies.append(
            f"max_tokens={made.max_tokens}, now {max_tokens}: set max_tokens={made.max_tokens}, or "
            f"{_PREPARE}"
        )
    if made.chat_template_kwargs != dict(kwargs):
        remedies.append(
            f"chat_template_kwargs={json.dumps(made.chat_template_kwargs)}, now "
            f"{json.dumps(dict(kwargs))}: set it as it was, or {_PREPARE}"
        )
    if remedies:
        raise CorpusError(f"{folder}: made with {'; '.join(remedies)}")
    if unusable == "error" and found.left_out:
        raise CorpusError(
            f"{folder}: {found.left_out} pairs were left out when it was made, the first because "
            f"of {found.reasons[0]}; set unusable=skip to train without them"
        )


_PREPARE = "prepare another corpus with rlaif train prepare"


def differing(then: MadeOf, now: MadeOf) -> list[str]:
    """The names of what differs, as a person calls it; in brackets both values of max_tokens."""
    names = {"data": "labels", "end_tokens": "end tokens", "chat_template": "chat template"}
    found = []
    for field in MadeOf.model_fields:
        before, after = getattr(then, field), getattr(now, field)
        if before != after:
            values = f" ({before}, now {after})" if isinstance(before, int) else ""
            found.append(f"{names.get(field, field)}{values}")
    return found


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
