"""Tiny random models of many classes of transformers, to be saved and loaded like real ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

VOCABULARY = 300

_ENDS = {"eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0}
_SIZE = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "initializer_range": 0.2, **_ENDS,
}  # fmt: skip
_LLAMA = _SIZE | {"intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 256}
_WIDE = _LLAMA | {"head_dim": 8}
_EXPERTS = _WIDE | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_LINEAR = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
_GPT2 = {
    "vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256,
    "initializer_range": 0.2, "eos_token_id": 2, "bos_token_id": 1,
}  # fmt: skip
_DEEPSEEK = _EXPERTS | {
    "num_key_value_heads": 4, "n_routed_experts": 4, "n_shared_experts": 1, "kv_lora_rank": 16,
    "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 4,
    "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1,
}  # fmt: skip
_GEMMA4 = _WIDE | {
    "global_head_dim": 8, "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": VOCABULARY,
}  # fmt: skip
_VISION = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip

# Class of the config → settings. Every model of these is exact, in rows of their own and shared.
SHARED: dict[str, dict[str, Any]] = {
    "LlamaConfig": _LLAMA,
    "Qwen2Config": _LLAMA,
    "Qwen3Config": _WIDE,
    "GPT2Config": _GPT2,
    "GPTNeoXConfig": _SIZE | {"intermediate_size": 48, "tie_word_embeddings": False},
    "OPTConfig": {
        "vocab_size": VOCABULARY, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "word_embed_proj_dim": 32, "max_position_embeddings": 256,
        "init_std": 0.2, **_ENDS,
    },
    "GemmaConfig": _WIDE,
    "Gemma3TextConfig": _WIDE | {"query_pre_attn_scalar": 8, "sliding_window": 64},
    "Gemma3Config": {
        "text_config": _WIDE | {"query_pre_attn_scalar": 8}, "vision_config": _VISION,
        "mm_tokens_per_image": 4,
    },
    "Gemma4TextConfig": _GEMMA4,
    "Gemma4Config": {"text_config": _GEMMA4, "vision_config": None, "audio_config": None},
    "Phi3Config": _LLAMA,
    "MixtralConfig": _LLAMA | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "Qwen2MoeConfig": _EXPERTS | {"shared_expert_intermediate_size": 16},
    "Qwen3MoeConfig": _EXPERTS,
    "SmolLM3Config": _LLAMA,
    "Olmo2Config": _LLAMA,
    "Glm4Config": _WIDE,
    "DeepseekV3Config": _DEEPSEEK,
}  # fmt: skip

# Exact in rows of their own: state, windows shorter than the row, or a mask of the class's own.
ALONE: dict[str, dict[str, Any]] = {
    "MistralConfig": _LLAMA | {"sliding_window": 4},
    "Qwen3NextConfig": _EXPERTS | _LINEAR | {"shared_expert_intermediate_size": 16},
    "JambaConfig": _LLAMA | {
        "num_experts": 4, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2,
        "expert_layer_offset": 1, "mamba_d_state": 4, "mamba_dt_rank": 4,
        "use_mamba_kernels": False,
    },
    "MambaConfig": {
        "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4,
        "initializer_range": 0.2, **_ENDS,
    },
    "Llama4TextConfig": _WIDE | {
        "num_local_experts": 2, "intermediate_size_mlp": 48, "moe_layers": [1],
    },
}  # fmt: skip

# Exact, with the attention of their own class.
OWN_ATTENTION: dict[str, dict[str, Any]] = {
    "BloomConfig": {
        "vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4,
        "initializer_range": 0.2, "eos_token_id": 2, "bos_token_id": 1,
    },
    "XGLMConfig": {
        "vocab_size": VOCABULARY, "d_model": 32, "ffn_dim": 48, "num_layers": 2,
        "attention_heads": 4, "max_position_embeddings": 256, "init_std": 0.2, **_ENDS,
    },
    "GptOssConfig": _WIDE | {
        "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 64,
    },
    "Gemma2Config": _WIDE | {
        "query_pre_attn_scalar": 8, "attn_logit_softcapping": 2.0, "final_logit_softcapping": None,
    },
    "FalconConfig": _SIZE,
    "MptConfig": {
        "vocab_size": VOCABULARY, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 256,
        "initializer_range": 0.2, "eos_token_id": 2, "bos_token_id": 1,
    },
    "GPTNeoConfig": _SIZE | {
        "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]],
        "window_size": 64, "max_position_embeddings": 256,
    },
}  # fmt: skip

# Refused, with these words.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "PhiConfig": (_LLAMA, "a bias in the head"),
    "CohereConfig": (_LLAMA, "logit_scale"),
    "GraniteConfig": (_LLAMA | {"logits_scaling": 2.0}, "logits_scaling"),
    "Gemma2Config": (_WIDE, "final_logit_softcapping"),
    "Gemma4TextConfig": (_GEMMA4 | {"final_logit_softcapping": 2.0}, "final_logit_softcapping"),
    "Gemma4Config": (
        {
            "text_config": _GEMMA4 | {"final_logit_softcapping": 2.0},
            "vision_config": None, "audio_config": None,
        },
        "final_logit_softcapping",
    ),
    "RecurrentGemmaConfig": (
        _WIDE | {"num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 64},
        "logits_soft_cap",
    ),
    "FalconH1Config": (
        _LLAMA | {
            "mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8,
            "mamba_chunk_size": 16, "lm_head_multiplier": 0.5,
        },
        "lm_head_multiplier",
    ),
}  # fmt: skip


def save_architecture(
    folder: Path, tokenizer: str, config: str, settings: dict[str, Any],
    build: Callable[[Any], Any] | None = None,
) -> str:  # fmt: skip
    """Save a random model of a config class, with the tokenizer of another folder; the folder.

    build: makes the model from the config; None for that of AutoModelForCausalLM.
    """
    import torch
    import transformers

    build = build or transformers.AutoModelForCausalLM.from_config
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build(getattr(transformers, config)(**settings))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("sinks"):
                    parameter.normal_()  # transformers starts them at 0
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return str(folder)
