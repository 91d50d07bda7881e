"""No caller keeps the event loop from the others. Over real sockets, with a real tokenizer.

Measured in CPU time between two turns of the server's loop (tests/support/service/heartbeats.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from judge_service.engines.tokenizer import HFTokenizer
from judge_service.v1 import judge_pb2 as pb
from judge_service.v1 import judge_pb2_grpc as pb_grpc
from tests.support.service.heartbeats import Heartbeats, on_one_core
from tests.support.service.serving import CHAT, one_principle, serving
from tests.support.service.steady_engine import SteadyEngine
from tests.support.training.tiny_model import CHAT_TEMPLATE, CHATML_TOKENS

MOST_LAG = 0.1  # CPU seconds


class CountingTokenizer(HFTokenizer):
    """Notes every text from outside that it encodes."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.encoded: list[str] = []

    def encode_data(self, text: str) -> list[int]:
        self.encoded.append(text)
        return super().encode_data(text)


class EngineWithTokenizer(SteadyEngine):
    """A SteadyEngine with the tokenizer of a model, and room for long texts."""

    def __init__(self, tokenizer: CountingTokenizer) -> None:
        super().__init__(slots=64)
        self._real = tokenizer

    @property
    def tokenizer(self) -> CountingTokenizer:  # type: ignore[override]
        return self._real

    @property
    def max_context_tokens(self) -> int:
        return 100_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    corpus = ["That is Reply A", "That is Reply B", "Yes", "No", "word and other things"] * 20
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        corpus, trainers.BpeTrainer(initial_alphabet=alphabet, show_progress=False)
    )
    bpe.add_special_tokens(list(CHATML_TOKENS))
    fast = PreTrainedTokenizerFast(tokenizer_object=bpe)
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    return folder


@pytest.fixture
def engine(folder: Path) -> Iterator[EngineWithTokenizer]:
    with on_one_core():
        yield EngineWithTokenizer(CountingTokenizer(folder))


def long_text(n: int, characters: int) -> str:
    return f"{n} " + "word and other things " * (characters // 22)


async def test_a_ranking_of_long_texts_leaves_the_loop_to_others(
    engine: EngineWithTokenizer, tmp_path: Path
) -> None:
    texts = [long_text(n, 32_000) for n in range(12)]
    request = pb.RankCandidatesRequest(**CHAT, candidates=texts)
    async with (
        serving(engine, constitutions=[one_principle(tmp_path)]) as server,
        grpc.aio.insecure_channel(server.address) as channel,
        Heartbeats() as heart,
    ):
        answer = await pb_grpc.JudgeServiceStub(channel).RankCandidates(request)
    assert len(answer.ranking.candidates) == 12
    assert heart.worst < MOST_LAG
    encoded = [text for text in engine.tokenizer.encoded if text in set(texts)]
    assert sorted(encoded) == sorted(texts), "each once, not once in each of its pairs"


async def test_megabytes_are_refused_before_they_are_encoded(
    engine: EngineWithTokenizer, tmp_path: Path
) -> None:
    text = long_text(0, 4_000_000)
    request = pb.ComparePairRequest(**CHAT, response_a=text, response_b="b")
    async with (
        serving(engine, constitutions=[one_principle(tmp_path)]) as server,
        grpc.aio.insecure_channel(server.address) as channel,
        Heartbeats() as heart,
    ):
        with pytest.raises(grpc.aio.AioRpcError, match="is too long"):
            await pb_grpc.JudgeServiceStub(channel).ComparePair(request)
    assert heart.worst < MOST_LAG
    assert sum(map(len, engine.tokenizer.encoded)) < len(text) / 2


async def test_both_orders_and_all_principles_tokenize_a_text_once(
    engine: EngineWithTokenizer, tmp_path: Path
) -> None:
    request = pb.ComparePairRequest(**CHAT, response_a="one reply", response_b="another reply")
    async with (
        serving(engine, constitutions=["hhh"]) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        judge = pb_grpc.JudgeServiceStub(channel)
        await judge.ComparePair(request)
        await judge.ComparePair(request)
    encoded = [text for text in engine.tokenizer.encoded if text]
    assert len(encoded) == len(set(encoded))
    assert "one reply" in encoded
