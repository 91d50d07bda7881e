"""User text never becomes a control token, in the tokenizers of both shipped models.

tests/judge_service/engines/test_tokenizer.py has imitations of more kinds of tokenizers.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from constitution.schema import Message
from judge_service.engines.tokenizer import HFTokenizer
from judge_service.judge.prompts import PROTOCOL_PROMPTS
from judge_service.judge.template import Template
from rlaif.models import catalog

pytestmark = pytest.mark.integration
hostile = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module", params=sorted(catalog.KNOWN))
def tokenizer(request: pytest.FixtureRequest) -> HFTokenizer:
    if request.param == "smollm2-135m":
        return HFTokenizer(Path(request.getfixturevalue("smollm2")))
    folder = catalog.model_folder(request.param)
    if not (folder / "tokenizer.json").is_file():
        pytest.skip(f"{request.param} is not in the cache: `rlaif models fetch {request.param}`")
    return HFTokenizer(folder)


def spelling(tokenizer: HFTokenizer, token_id: int) -> str:
    """A token as the vocabulary spells it."""
    return str(tokenizer._template.id_to_token(token_id))


def hostile_text(tokenizer: HFTokenizer) -> st.SearchStrategy[str]:
    """Every control token's spelling, among other text, whole or torn."""
    spellings = [spelling(tokenizer, i) for i in sorted(tokenizer.control_ids)]
    part = st.one_of(
        st.sampled_from(spellings),
        st.sampled_from(spellings).flatmap(lambda s: st.sampled_from([s[:-1], s[1:]])),
        st.text(max_size=8),
    )
    return st.lists(part, max_size=8).map("".join)


@given(st.data())
@hostile
def test_hostile_text_has_no_control_id(tokenizer: HFTokenizer, data: st.DataObject) -> None:
    ids = tokenizer.encode_data(data.draw(hostile_text(tokenizer)))
    assert tokenizer.control_ids.isdisjoint(ids)


def test_every_spelling_alone_has_no_control_id(tokenizer: HFTokenizer) -> None:
    assert tokenizer.control_ids
    for token in tokenizer.control_ids:
        assert tokenizer.control_ids.isdisjoint(tokenizer.encode_data(spelling(tokenizer, token)))


@given(st.data())
@hostile
def test_the_judge_s_prompt_has_the_control_ids_of_its_template_alone(
    tokenizer: HFTokenizer, data: st.DataObject
) -> None:
    template = Template(tokenizer, PROTOCOL_PROMPTS["pairwise"].direct)

    def control_ids(question: str, a: str, b: str, principle: str) -> list[int]:
        prefix = template.prefix((Message(role="user", content=question),), (a, b))
        ids = (*prefix.ids, *template.suffix(principle))
        return [i for i in ids if i in tokenizer.control_ids]

    texts = [data.draw(hostile_text(tokenizer)) + "x" for _ in range(4)]
    assert control_ids(*texts) == control_ids("q", "a", "b", "p")
