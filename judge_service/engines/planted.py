"""A simulated judge in place of a model: it answers from the token ids of the judge's prompt alone.

    ids → text of the user's turn → question (planted/question.py)
        → gold of each reply by the principle's rule (planted/gold.py)
        → log-odds with the errors of its file (planted/corrupter.py) → log-probs of the labels

So server, client, labeling, receipts and training run as with a model, at under a millisecond a
read, and what is truly better is known exactly. It writes critiques and revisions if its file gives
it a skill (planted/writer.py), and no rationales.
"""

from __future__ import annotations

from collections.abc import Sequence

from constitution.schema import Message
from judge_service.engine import EngineError, LabelLogprobs, Written
from judge_service.judge.label_probs import DEFAULT_PROTOCOL
from judge_service.judge.prompts import CRITIQUE, PROTOCOL_PROMPTS
from judge_service.judge.template import Template
from judge_service.planted import writer
from judge_service.planted.corrupter import (
    log_sigmoid,
    pair_logit,
    rating_logprobs,
    single_logit,
)
from judge_service.planted.file import PlantedJudge
from judge_service.planted.question import (
    JudgeQuestion,
    UnknownQuestion,
    parse_question,
    parse_writing,
)
from judge_service.planted.tokenizer import ByteTokenizer
from judge_service.settings import ServerSettings
from judge_service.types import ModelIdentity

DEFAULT_CONTEXT_TOKENS = 65_536  # bytes of a prompt; a long one costs nothing here


class PlantedEngine:
    """An `Engine` over a planted judge.

    max_context_tokens: the longest prompt, in bytes.
    """

    def __init__(
        self, judge: PlantedJudge, *, max_context_tokens: int = DEFAULT_CONTEXT_TOKENS
    ) -> None:
        self._judge = judge
        self._tokenizer = ByteTokenizer()
        self._max_context_tokens = max_context_tokens
        self._rules = {
            principle.compare.strip(): judge.gold.rules[principle.id]
            for principle in judge.gold.constitution.principles
        }
        # Critique and revision are different texts of a principle.
        self._tasks = {
            task.strip(): judge.gold.rules[principle.id]
            for principle in judge.gold.constitution.principles
            for task in (principle.critique, principle.revise)
        }
        self._alive = False

    @property
    def identity(self) -> ModelIdentity:
        """Says "planted" in every receipt; the digest covers the file and the gold rules."""
        return ModelIdentity(
            name=self._judge.name,
            weights_sha256=self._judge.digest,
            tokenizer_sha256=self._tokenizer.sha256,
            dtype="float64",
            engine="planted: simulated by rules, not a model",
        )

    @property
    def tokenizer(self) -> ByteTokenizer:
        """Bytes as tokens."""
        return self._tokenizer

    @property
    def max_context_tokens(self) -> int:
        """As given, in bytes of the prompt."""
        return self._max_context_tokens

    @property
    def alive(self) -> bool:
        """Whether it was started and not closed."""
        return self._alive

    @property
    def recovers(self) -> bool:
        """False: it runs in this process."""
        return False

    async def start(self) -> None:
        """Make one read by the first principle. Raises EngineError."""
        self._alive = True
        template = Template(self._tokenizer, PROTOCOL_PROMPTS[DEFAULT_PROTOCOL].direct)
        prefix = template.prefix((Message(role="user", content="Hello"),), ("Hi!", "No."))
        first = self._judge.gold.constitution.principles[0].compare
        await self.read([*prefix.ids, *template.suffix(first)], template.label_ids)

    async def read(
        self,
        prompt_ids: Sequence[int],
        label_ids: Sequence[int],
        *,
        priority: int = 0,
        use_store: bool = True,
    ) -> LabelLogprobs:
        """As `Engine.read`. Raises EngineError for a principle without a gold rule."""
        if not self._alive:
            raise EngineError("the planted judge is not running; start() it first")
        try:
            question = parse_question(self._tokenizer.last_turn(prompt_ids, "user"))
        except UnknownQuestion as error:
            raise EngineError(f"the planted judge cannot answer: {error}") from error
        answers = self._answers(question)
        labels = [self._tokenizer.spell([label]) for label in label_ids]
        if unknown := [label for label in labels if label not in answers]:
            raise EngineError(
                f"the planted judge knows no such label here: {unknown[0]!r}; it answers with one "
                f"of {', '.join(map(repr, answers))}"
            )
        return LabelLogprobs(
            tuple(answers[label] for label in labels),
            prompt_tokens=len(prompt_ids),
            cached_tokens=0,
        )

    async def write(
        self,
        prompt_ids: Sequence[int],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        priority: int = 0,
        use_store: bool = True,
    ) -> Written:
        """A critique or a revision, cut at max_tokens bytes; the seed alone decides, at every
        temperature. Raises EngineError without a skill, and for any other prompt."""
        if self._judge.skill is None:
            raise EngineError(
                "the planted judge reads labels and cannot write; ask without rationales, "
                "critiques and revisions, or give it `skill` in its file"
            )
        try:
            question = parse_writing(self._tokenizer.last_turn(prompt_ids, "user"))
        except UnknownQuestion as error:
            raise EngineError(f"the planted judge cannot write this: {error}") from error
        rule, reply = self._tasks.get(question.principle), question.replies[0]
        if rule is None:
            raise self._no_rule(question)
        if question.spec is CRITIQUE:
            text = writer.critique(rule, question.conversation, reply)
        else:
            text = writer.revision(
                rule, question.conversation, reply, skill=self._judge.skill, seed=seed
            )
        ids = self._tokenizer.encode_data(text)
        kept = ids[:max_tokens]
        text = bytes(kept).decode("utf-8", "ignore")  # a cut may be inside a character
        return Written(text, tuple(kept), len(kept) == len(ids), len(prompt_ids), cached_tokens=0)

    async def close(self) -> None:
        """No more reads."""
        self._alive = False

    def _answers(self, question: JudgeQuestion) -> dict[str, float]:
        """Log-probability of each label of the question's prompt."""
        judge, conversation = self._judge, question.conversation
        rule = self._rules.get(question.principle)
        if rule is None:
            raise self._no_rule(question)
        gold = [rule(conversation, reply) for reply in question.replies]
        if len(question.replies) == 2:
            shown = (question.replies[0], question.replies[1])
            logit = pair_logit(judge.errors, conversation, shown, (gold[0], gold[1]))
            values = [log_sigmoid(logit), log_sigmoid(-logit)]
        else:
            logit = single_logit(judge.errors, conversation, question.replies[0], gold[0])
            two = [log_sigmoid(logit), log_sigmoid(-logit)]
            labels = len(question.spec.labels)
            values = two if labels == 2 else rating_logprobs(logit, labels)
        return dict(zip(question.spec.labels, values, strict=True))

    def _no_rule(self, question: JudgeQuestion) -> EngineError:
        constitution = self._judge.gold.constitution
        return EngineError(
            f"{self._judge.name} has no gold rule for this principle: "
            f"{question.principle[:60]!r}; judge by its constitution, {constitution.name} "
            f"{constitution.version}"
        )


def from_settings(settings: ServerSettings) -> PlantedEngine:
    """The engine of a server's settings, not yet started. Raises PlantedError."""
    judge = PlantedJudge.load(settings.model)
    return PlantedEngine(
        judge, max_context_tokens=settings.max_context_tokens or DEFAULT_CONTEXT_TOKENS
    )
