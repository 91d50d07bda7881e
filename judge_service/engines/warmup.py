"""A short judge prompt used to warm up and self-test an engine."""

from __future__ import annotations

from constitution.schema import Message
from judge_service.engine import ChatTokenizer
from judge_service.engines.model_folder import ModelFolderError
from judge_service.judge.label_probs import DEFAULT_PROTOCOL
from judge_service.judge.prompts import PROTOCOL_PROMPTS
from judge_service.judge.template import Template, TemplateError


def warmup_prompt(tokenizer: ChatTokenizer, model: str) -> tuple[list[int], tuple[int, ...]]:
    """A short judge prompt, as (prompt ids, label ids).

    model: names it in errors. Raises ModelFolderError for a model that cannot fit the judge's
    prompts.
    """
    try:
        template = Template(tokenizer, PROTOCOL_PROMPTS[DEFAULT_PROTOCOL].direct)
    except TemplateError as error:
        raise ModelFolderError(f"{model}: {error}") from error
    conversation = (Message(role="user", content="Hello"),)
    prefix = template.prefix(conversation, ("Hi!", "No.")[: len(template.headings)])
    return [*prefix.ids, *template.suffix("Be kind.")], template.label_ids
