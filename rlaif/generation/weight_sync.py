"""Handover of the trainer's current weights to a vLLM engine in the same process.

    base + s·B A (lora.py)     ──named_weights──►  engine's own layout  ──►  no stale prefix is read

A reload must do more than write the weights; both were seen by comparing log-probs afterwards:

- a head tied to the embedding is a layer of its own in vLLM with, on a CPU, its own repacked copy
  of the matrix. The reload writes the matrix and leaves the copy: log-probs are then 0.7 to 2 nats
  off without an error. So the head is packed again;
- cached keys and values belong to the old weights: 1 to 2 nats off. So the prefix cache is emptied.

The tensors are handed over by reference, so this holds for an engine of one process
(VLLM_ENABLE_V1_MULTIPROCESSING=0), on CPU and CUDA alike; tested on CPU only.
An engine in another process is in a rollout worker, which is sent the weights (remote/).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from hardware.vllm_cpu import SeedsSurviveChunks

if TYPE_CHECKING:
    from torch import Tensor

EXTENSION = "rlaif.generation.weight_sync.TakesWeights"  # vLLM's worker_extension_cls


class TakesWeights(SeedsSurviveChunks):
    """Extension of vLLM's worker (`worker_extension_cls`): methods that it adds to its own."""

    vllm_config: Any
    model_runner: Any

    def take_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Load all weights of the model, and repack a head that is tied to the embedding.

        weights: (name as in a model folder, tensor of any float dtype).
        """
        from vllm.config import set_current_vllm_config

        with set_current_vllm_config(self.vllm_config):
            self.model_runner.reload_weights(weights_iterator=weights)
            model = self.model_runner.get_model()
            head = getattr(model, "lm_head", None)
            embedding = getattr(getattr(model, "model", None), "embed_tokens", None)
            if head is not None and embedding is not None and head.weight is embedding.weight:
                head.quant_method.process_weights_after_loading(head)


def hand_over(llm: Any, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Replace the weights of an idle, synchronous `vllm.LLM`, and empty its prefix cache.

    weights: (name as in a model folder, tensor), passed by reference. Raises RuntimeError if the
    prefix cache cannot be emptied.
    """
    llm.collective_rpc("take_weights", args=(weights,))
    if not llm.reset_prefix_cache():
        raise RuntimeError("vLLM kept its prefix cache, which belongs to the weights before")
