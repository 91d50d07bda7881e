"""What pays on this device: a DPO step by dtype, attention kernel and compilation.

    python -m benchmarks.training.gpu_check [--model smollm2-135m] [--pairs 32] [--steps 5]
        [--compile] [--full] [--out gpu-check.json]

One process, one model at a time: LoRA (or with --full all weights) on pairs made of the shipped
examples, the same pairs every step. Settings are tried one by one, each beside the first:

    float32, bfloat16       what the model computes in
    math, efficient, cudnn  torch's kernel for attention under a mask (bfloat16); "default" chooses
    compiled                torch.compile of the decoder, with --compile

The first step is not counted. The loss of the last one stands beside each: settings that compute
the same agree to their rounding. Runs on a CPU too, where there is only one kernel. The last line
is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from rich.console import Console
from rich.table import Table
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.peers.data import choose_pairs
from rlaif.algorithms.dpo import train as dpo
from rlaif.algorithms.dpo.reference_cache import ReferenceCache
from rlaif.distributed.processes import ProcessGroup
from rlaif.models import catalog
from rlaif.models.backbone import Backbone
from rlaif.models.lora_config import LoraConfig, TrainDtype
from rlaif.training.checks import memory_gib
from rlaif.training.learner import Learner

KERNELS = {
    "math": SDPBackend.MATH,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}


@dataclass(frozen=True)
class Setting:
    """One way to compute a step. kernel: a key of KERNELS, or "default"."""

    dtype: TrainDtype
    kernel: str = "default"
    compiled: bool = False

    def __str__(self) -> str:
        return f"{self.dtype}, {self.kernel} attention" + ", compiled" * self.compiled


@dataclass(frozen=True)
class Measured:
    """The speed of one setting; the other figures are None where it does not run."""

    setting: Setting
    pairs_per_second: float | None  # None: this setting does not run here
    last_loss: float | None = None
    peak_gib: float | None = None
    why_not: str = ""


def settings(compiled: bool) -> Iterator[Setting]:
    """The settings to try on this machine; kernels only on a GPU, torch.compile on request."""
    yield Setting("float32")
    yield Setting("bfloat16")
    if torch.cuda.is_available():
        yield from (Setting("bfloat16", kernel) for kernel in KERNELS)
    if compiled:
        yield Setting("bfloat16", compiled=True)


@contextmanager
def kernel(name: str) -> Iterator[None]:
    """Restrict PyTorch's attention to one kernel inside the block; "default" does not."""
    with nullcontext() if name == "default" else sdpa_kernel(KERNELS[name]):
        yield


def measure(setting: Setting, options: argparse.Namespace) -> Measured:
    """Time DPO steps with one setting; an error that it raises is its result."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    backbone = Backbone.load(catalog.resolve(options.model), setting.dtype, options.full)
    work = choose_pairs(backbone.tokenizer, None, 1, options.pairs, 1024)
    workers = ProcessGroup.current()
    lora = None if options.full else LoraConfig()
    config = dpo.DPOConfig(lora=lora, dtype=setting.dtype, micro_batch_tokens=16384)
    if setting.compiled:
        backbone.trunk = torch.compile(backbone.trunk, dynamic=True)
    try:
        with TemporaryDirectory() as folder, kernel(setting.kernel):
            cache = ReferenceCache(Path(folder), backbone.fingerprint, dpo.numerics(backbone))
            backbone.add_role("policy", lora, 0)
            reference = dpo.reference_logprobs(backbone, work.pairs, config, cache, workers)
            groups = [(backbone.role_parameters("policy"), config.learning_rate)]
            learner = Learner(groups, options.steps + 1, config, workers)
            seconds, losses = [], []
            for step in range(1, options.steps + 2):
                learner.schedule(step)
                begin = time.perf_counter()
                found = dpo.train_step(backbone, learner, work.pairs, reference, config, "step")
                seconds.append(time.perf_counter() - begin)
                losses.append(found["loss"])
    except Exception as error:  # a kernel that this device or this mask does not allow
        return Measured(setting, None, why_not=f"{type(error).__name__}: {error}".splitlines()[0])
    return Measured(setting, len(work.pairs) / median(seconds[1:]), losses[-1], memory_gib())


def show(found: list[Measured], console: Console) -> None:
    """Print a line per setting, with its speed as a multiple of the first."""
    table = Table("setting", "pairs/s", "of the first", "last loss", "peak GiB")
    base = found[0].pairs_per_second
    for each in found:
        if each.pairs_per_second is None or base is None:
            table.add_row(str(each.setting), "-", "-", "-", each.why_not[:60])
            continue
        speed = each.pairs_per_second
        table.add_row(
            str(each.setting), f"{speed:.2f}", f"{speed / base:.2f}x",
            f"{each.last_loss:.5f}", f"{each.peak_gib:.2f}",
        )  # fmt: skip
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--pairs", type=int, default=32, help="of one optimizer step")
    parser.add_argument("--steps", type=int, default=5, help="counted; one more is made before")
    parser.add_argument("--compile", action="store_true", help="also with torch.compile (slow)")
    parser.add_argument("--full", action="store_true", help="all weights, no LoRA")
    parser.add_argument("--out", type=Path, help="also write the JSON object here")
    options = parser.parse_args()
    found = [measure(setting, options) for setting in settings(options.compile)]
    show(found, Console(width=120))
    ran = [each for each in found if each.pairs_per_second is not None]
    if not ran:
        raise SystemExit(f"no setting ran: {found[0].why_not}")
    best = max(ran, key=lambda each: each.pairs_per_second or 0.0)
    cuda = torch.cuda.is_available()
    result = {
        "name": f"DPO step, {options.model}: {best.setting}",
        "ours": best.pairs_per_second,
        "peer": ran[0].pairs_per_second,
        "unit": f"pairs/s (peer: {ran[0].setting})",
        "ratio": round((best.pairs_per_second or 0.0) / (ran[0].pairs_per_second or 1.0), 3),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "torch": torch.__version__,
        "settings": [asdict(each) for each in found],
    }
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
