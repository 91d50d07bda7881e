"""Conversion between protobuf and domain types: constitutions, conversations, diagnostics."""

from __future__ import annotations

from collections.abc import Iterable

from constitution.errors import Diagnostic
from constitution.schema import Constitution, Example, Message, Principle, Scope, Trait
from judge_service.server_info import ConstitutionSummary
from judge_service.types import Conversation, Verdict
from judge_service.v1 import judge_pb2 as pb
from judge_service.wire.enums import ROLE_OF, ROLES, VERDICT_OF, VERDICTS


def conversation_to_proto(conversation: Iterable[Message]) -> list[pb.Message]:
    """The messages of a request, oldest first."""
    return [pb.Message(role=ROLES[m.role], content=m.content) for m in conversation]


def conversation_from_proto(messages: Iterable[pb.Message]) -> Conversation:
    """Inverse of `conversation_to_proto`. Raises KeyError for a role of a newer version."""
    return tuple(Message(role=ROLE_OF[m.role], content=m.content) for m in messages)


def summary_to_proto(summary: ConstitutionSummary) -> pb.ConstitutionSummary:
    """Name, version and digest of a constitution, without its text."""
    return pb.ConstitutionSummary(name=summary.name, version=summary.version, sha256=summary.sha256)


def summary_from_proto(summary: pb.ConstitutionSummary) -> ConstitutionSummary:
    """Inverse of `summary_to_proto`."""
    return ConstitutionSummary(summary.name, summary.version, summary.sha256)


def diagnostic_to_proto(problem: Diagnostic) -> pb.Diagnostic:
    """A Diagnostic message; line 0 stands for the text as a whole."""
    return pb.Diagnostic(
        source=problem.source,
        line=problem.line,
        column=problem.column,
        message=problem.message,
        remedy=problem.remedy,
    )


def diagnostic_from_proto(problem: pb.Diagnostic) -> Diagnostic:
    """Inverse of `diagnostic_to_proto`."""
    return Diagnostic(problem.source, problem.line, problem.column, problem.message, problem.remedy)


def constitution_to_proto(constitution: Constitution) -> pb.Constitution:
    """The full constitution as a message, worked examples included."""
    return pb.Constitution(
        name=constitution.name,
        version=constitution.version,
        description=constitution.description,
        traits={
            name: pb.Trait(weight=trait.weight, description=trait.description)
            for name, trait in constitution.traits.items()
        },
        principles=[_principle_to_proto(principle) for principle in constitution.principles],
    )


def constitution_from_proto(constitution: pb.Constitution) -> Constitution:
    """Inverse of `constitution_to_proto`; the digest equals the sender's.

    Raises pydantic's ValidationError for a message that the schema of this version rejects.
    """
    return Constitution(
        name=constitution.name,
        version=constitution.version,
        description=constitution.description,
        traits={
            name: Trait(weight=trait.weight, description=trait.description)
            for name, trait in constitution.traits.items()
        },
        principles=tuple(_principle_from_proto(principle) for principle in constitution.principles),
    )


def _principle_to_proto(principle: Principle) -> pb.Principle:
    scope = principle.scope
    return pb.Principle(
        id=principle.id,
        trait=principle.trait,
        weight=principle.weight,
        compare=principle.compare,
        critique=principle.critique,
        revise=principle.revise,
        scope=None if scope is None else pb.Scope(mentions=scope.mentions, excludes=scope.excludes),
        examples=[_example_to_proto(example) for example in principle.examples],
    )


def _principle_from_proto(principle: pb.Principle) -> Principle:
    scope = principle.scope
    return Principle(
        id=principle.id,
        trait=principle.trait,
        weight=principle.weight,
        compare=principle.compare,
        critique=principle.critique,
        revise=principle.revise,
        scope=Scope(mentions=tuple(scope.mentions), excludes=tuple(scope.excludes))
        if principle.HasField("scope")
        else None,
        examples=tuple(_example_from_proto(example) for example in principle.examples),
    )


def _example_to_proto(example: Example) -> pb.Example:
    text = example.prompt if isinstance(example.prompt, str) else ""
    return pb.Example(
        prompt=text,
        conversation=[] if text else conversation_to_proto(example.conversation),
        response_a=example.response_a,
        response_b=example.response_b,
        preferred=VERDICTS[Verdict(example.preferred)],
        note=example.note,
    )


def _example_from_proto(example: pb.Example) -> Example:
    return Example(
        prompt=conversation_from_proto(example.conversation) or example.prompt,
        response_a=example.response_a,
        response_b=example.response_b,
        preferred=VERDICT_OF[example.preferred].value,
        note=example.note,
    )
