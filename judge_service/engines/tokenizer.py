"""A Hugging Face fast tokenizer that encodes our template and outside text separately.

`encode_data` uses a second tokenizer without the added tokens, so that the text of a control token
becomes ordinary pieces. Some vocabularies hold that text as an ordinary entry too (SmolLM2's, and
every Unigram model's); a control id that still results is split inside its text and encoded again.
Neither tokenizer truncates.

Text from outside is encoded by the library's batch call, also a single text: it gives the same ids
and releases the GIL, which `encode` holds for as long as it works.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import jinja2
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from judge_service.engines.model_folder import ModelFolderError

PINNED_DATE = datetime(2024, 7, 26)
"""For templates that ask for today's date: tomorrow the same question has the same tokens, and its
reads are still in the store. As in rlaif/batching/chat.py, which the judge cannot import."""
_AS_IT_IS = {"add_special_tokens": False}


class HFTokenizer:
    """The `ChatTokenizer` of a model folder. control_ids: the ids that `encode_data` never yields.

    Raises ModelFolderError for an unreadable or slow tokenizer, one without a chat template, or one
    whose template drops the system turn or cannot be rendered.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self._chat: Any = AutoTokenizer.from_pretrained(str(folder))
        except (OSError, ValueError, KeyError) as error:
            raise ModelFolderError(
                f"{folder}: the tokenizer cannot be read ({error}); fetch the model again"
            ) from error
        if not self._chat.is_fast:
            raise ModelFolderError(f"{folder}: the judge needs a fast tokenizer (tokenizer.json)")
        if not self._chat.chat_template:
            raise ModelFolderError(
                f"{folder}: no chat template (chat_template.jinja, or in tokenizer_config.json); "
                "the judge needs an instruction-tuned model"
            )
        self._refuse_dropped_system(folder)
        spec = json.loads(self._chat.backend_tokenizer.to_str())
        spec["truncation"] = spec["padding"] = None
        self._template = Tokenizer.from_str(json.dumps(spec))
        self.control_ids = frozenset(token["id"] for token in spec["added_tokens"])
        self._data = Tokenizer.from_str(json.dumps(spec | {"added_tokens": []}))
        self._digest = hashlib.sha256(
            json.dumps([spec, self._chat.chat_template], sort_keys=True).encode()
        ).hexdigest()

    @property
    def sha256(self) -> str:
        """Digest of the vocabulary, its rules and the chat template."""
        return self._digest

    def encode_template(self, text: str) -> list[int]:
        """Ids of our own template, with control tokens. Adds no BOS or other special token."""
        return list(self._template.encode(text, add_special_tokens=False).ids)

    def encode_data(self, text: str) -> list[int]:
        """Ids of text from outside, never a control id.

        Raises ValueError for a tokenizer with a control token of one character that the text
        contains.
        """
        ids: list[int] = []
        for piece in self._pieces(text):
            ids += piece
        return ids

    def _pieces(self, text: str) -> list[list[int]]:
        """The ids of a text in pieces: it is cut inside every control id until there are none.

        Every round encodes the whole text once, so thousands of spelled-out control tokens cost as
        much as any other text, and not each the rest of the text.
        """
        texts, done = [text], False
        while not done:
            pieces = [list(e.ids) for e in self._data.encode_batch_fast(texts, **_AS_IT_IS)]
            clean = [self.control_ids.isdisjoint(ids) for ids in pieces]
            done = all(clean)
            if not done:
                judged = zip(texts, clean, strict=True)
                texts = [
                    part for text, ok in judged for part in ([text] if ok else self._cut(text))
                ]
        return pieces

    def _cut(self, text: str) -> list[str]:
        """The text cut after the first character of each control id that it has."""
        [encoding] = self._data.encode_batch([text], **_AS_IT_IS)  # with offsets
        spans = zip(encoding.ids, encoding.offsets, strict=True)
        spellings = [(start, end) for id, (start, end) in spans if id in self.control_ids]
        for start, end in spellings:
            if end - start < 2:
                raise ValueError(f"this tokenizer has a control token for {text[start:end]!r}")
        edges = [0, *(start + 1 for start, _ in spellings), len(text)]
        return [text[start:end] for start, end in pairwise(edges)]

    def render_chat(self, messages: Sequence[tuple[str, str]]) -> str:
        """The (role, content) turns in the model's chat template, with thinking turned off.

        For a template that refuses a system turn (Gemma's), the system text is put at the beginning
        of the user's turn. A template that asks for the date gets PINNED_DATE.
        """
        try:
            return self._render(messages)
        except jinja2.TemplateError:
            (first_role, system), (second_role, user), *rest = messages
            if (first_role, second_role) != ("system", "user"):
                raise
            return self._render((("user", f"{system}\n\n{user}"), *rest))

    def spell(self, ids: Sequence[int]) -> str:
        """The text of the ids, control tokens included."""
        return str(self._template.decode(list(ids), skip_special_tokens=False))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids without control tokens."""
        return str(self._template.decode(list(ids), skip_special_tokens=True))

    def distinct_texts(self) -> dict[int, str]:
        """The text of each token whose text is unique. Takes a tenth of a second."""
        size = self._template.get_vocab_size()
        texts = self._template.decode_batch([[i] for i in range(size)], skip_special_tokens=False)
        times = Counter(texts)
        return {i: text for i, text in enumerate(texts) if times[text] == 1}

    def _refuse_dropped_system(self, folder: Path) -> None:
        """The system turn is the judge's task: without it every label would be another one's."""
        try:
            one, other = (
                self.render_chat((("system", text), ("user", "Hello")))
                for text in ("Judge this.", "Praise this.")
            )
        except Exception as error:  # a template is a program, and may raise anything
            raise ModelFolderError(
                f"{folder}: its chat template cannot be rendered ({error}); the judge needs one "
                "that takes a system and a user turn"
            ) from error
        if one == other:
            raise ModelFolderError(
                f"{folder}: its chat template leaves out the system turn, which has the judge's "
                "instructions; write that turn in chat_template.jinja, or call raise_exception "
                "there (the judge then puts the instructions into the user's turn), or use another "
                "model"
            )

    def _render(self, messages: Sequence[tuple[str, str]]) -> str:
        turns = [{"role": role, "content": content} for role, content in messages]
        return str(
            self._chat.apply_chat_template(
                turns,
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=False,
                strftime_now=PINNED_DATE.strftime,
            )
        )
