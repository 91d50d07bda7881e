"""Short chat templates of the shapes that models come with, and tiny models that have them."""

from __future__ import annotations

from dataclasses import dataclass

from tests.support.training.tiny_model import CHAT_TEMPLATE, CHATML_TOKENS


@dataclass(frozen=True)
class Shape:
    """A chat template with its tokenizer's control tokens. end: what ends an assistant's turn."""

    template: str
    special: tuple[str, ...]
    eos: str
    end: str
    bos: str | None = None


_GENERATE = "{% if add_generation_prompt %}"
_ALTERNATE = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}{% endfor %}"
)
_NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}"
)

CHATML = Shape(CHAT_TEMPLATE, CHATML_TOKENS, "<|im_end|>", "<|im_end|>")
GEMMA = Shape(
    "{{ bos_token }}" + _NO_SYSTEM + _ALTERNATE + "{% for m in messages %}<start_of_turn>"
    "{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
    "{% endfor %}" + _GENERATE + "<start_of_turn>model\n{% endif %}",
    ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
    "<eos>",
    "<end_of_turn>",
    "<bos>",
)
# It ends a conversation with the end of texts, after the end of the turn.
PHI = Shape(
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    + _GENERATE
    + "<|assistant|>\n{% else %}{{ eos_token }}{% endif %}",
    ("<|endoftext|>", "<|assistant|>", "<|user|>", "<|system|>", "<|end|>", "<pad>"),
    "<|endoftext|>",
    "<|end|>",
)
# A base model's end of text is not the end of a turn. It asks for the date.
LLAMA = Shape(
    "{{ bos_token }}<|start|>system<|stop|>\n\nToday: {% if date_string is defined %}"
    "{{ date_string }}{% else %}{{ strftime_now('%d %b %Y') }}{% endif %}<|eot|>"
    "{% for m in messages %}<|start|>{{ m.role }}<|stop|>\n\n{{ m.content | trim }}<|eot|>"
    "{% endfor %}" + _GENERATE + "<|start|>assistant<|stop|>\n\n{% endif %}",
    ("<pad>", "<|bos|>", "<|eos|>", "<|start|>", "<|stop|>", "<|eot|>"),
    "<|eos|>",
    "<|eot|>",
    "<|bos|>",
)
# A turn is ended only when another one follows.
ENDS_LATER = Shape(
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% if not loop.last or add_generation_prompt %}<|im_end|>\n{% endif %}{% endfor %}"
    + _GENERATE
    + "<|im_start|>assistant\n{% endif %}",
    (*CHATML_TOKENS, "<eos>"),
    "<eos>",
    "<|im_end|>",
)
# Brackets are plain text, and the end of texts ends the turn.
BRACKETS = Shape(
    _ALTERNATE + "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}[INST] "
    "{{ m.content }} [/INST]{% else %} {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}",
    ("<pad>", "<s>", "</s>"),
    "</s>",
    "</s>",
    "<s>",
)
PLAIN = Shape(
    "{% for m in messages %}### {{ m.role }}\n{{ m.content }}\n{% endfor %}"
    + _GENERATE
    + "### assistant\n{% endif %}",
    ("<pad>", "<eos>"),
    "<eos>",
    "<eos>",
)
# Turns begin with a token and end with nothing.
OPENERS = Shape(
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    + _GENERATE
    + "<|assistant|>{% endif %}",
    ("<pad>", "<eos>", "<|user|>", "<|assistant|>", "<|system|>"),
    "<eos>",
    "<eos>",
)
# The thinking of earlier turns is left out, and can be turned off.
THINKING = Shape(
    "{% if enable_thinking is not defined %}{% set enable_thinking = true %}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content.split('</think>')[-1].lstrip('\\n') }}<|im_end|>\n{% endfor %}"
    + _GENERATE
    + "<|im_start|>assistant\n{% if not enable_thinking %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}",
    CHATML_TOKENS,
    "<|im_end|>",
    "<|im_end|>",
)
# It leaves out system messages without a word.
DROPS_SYSTEM = Shape(
    "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "<|im_end|>\n{% endfor %}" + _GENERATE + "<|im_start|>assistant\n{% endif %}",
    CHATML_TOKENS,
    "<|im_end|>",
    "<|im_end|>",
)

SHAPES = {
    "chatml": CHATML, "gemma": GEMMA, "phi": PHI, "llama": LLAMA, "ends later": ENDS_LATER,
    "brackets": BRACKETS, "plain": PLAIN, "openers": OPENERS, "thinking": THINKING,
}  # fmt: skip
