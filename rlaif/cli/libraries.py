"""How other libraries behave inside our commands: their progress bars, threads and statistics."""

from __future__ import annotations

from collections.abc import MutableMapping

LIBRARY_BARS = "RLAIF_LIBRARY_BARS"
"""Set to 1 in the environment, it brings back the progress bars of other libraries."""

_SILENT = {
    "TQDM_DISABLE": "1",  # tqdm itself, peft, accelerate, and vLLM by judge_service/engines/vllm.py
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # huggingface_hub and transformers
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}
_ALWAYS = {
    "VLLM_NO_USAGE_STATS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # OpenMP's waiting threads yield: spinning made training 15 times slower on a busy machine.
    "GOMP_SPINCOUNT": "1000",
}


def settle(environment: MutableMapping[str, str]) -> None:
    """Set the variables that libraries read when they are imported, where the user has not.

    Progress bars are ours alone (rlaif.progress) unless LIBRARY_BARS asks for the others.
    """
    bars = {} if environment.get(LIBRARY_BARS, "0") not in ("", "0") else _SILENT
    for name, value in (_ALWAYS | bars).items():
        environment.setdefault(name, value)
