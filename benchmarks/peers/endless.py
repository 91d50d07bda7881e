"""A copy of a model that never ends a response by itself, so that all have one length."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import transformers


def endless(model: str, folder: Path) -> str:
    """`model` under another end token: a special one that its chat template does not use and it was
    not taught to say. The pad token is another such (TRL knows pads by it, and would take one that
    the model says for the end). The weights are linked, not copied.

    Raises SystemExit for a model without two such tokens.
    """
    source = Path(model)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    used = {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id}
    idle = [
        i
        for i, token in tokenizer.added_tokens_decoder.items()
        if token.special and i not in used and token.content not in (tokenizer.chat_template or "")
    ]
    if len(idle) < 2:
        raise SystemExit(f"{model}: no special tokens to spare, so it cannot be kept from ending")
    pad, end = idle[-2:]
    folder.mkdir(parents=True)
    for file in source.iterdir():
        if file.suffix == ".safetensors" or file.name.endswith(".index.json"):
            (folder / file.name).symlink_to(file.resolve())
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad)
    tokenizer.save_pretrained(folder)
    for name in ("config.json", "generation_config.json"):
        _rewrite(source / name, folder / name, {"eos_token_id": end, "pad_token_id": pad})
    return str(folder)


def _rewrite(source: Path, target: Path, changes: dict[str, Any]) -> None:
    if source.exists():
        found = json.loads(source.read_text(encoding="utf-8"))
        target.write_text(json.dumps({**found, **changes}, indent=2), encoding="utf-8")
