"""A recipe's graph as text and as a Mermaid diagram."""

from __future__ import annotations

from collections.abc import Iterator

from rlaif.pipeline.graph import Graph
from rlaif.pipeline.recipe import ModelSpec
from rlaif.pipeline.stage import Source, Stage
from rlaif.settings import MovingWeight


def as_text(graph: Graph) -> str:
    """One line per stage: its name, its kind, and what it takes.

    samples  sample  model: policy
    labels   label   samples: samples · judge: judge
    """
    rows = [(stage.name, stage.kind, _inputs(stage, graph)) for stage in graph.stages]
    name, kind = (max(len(row[column]) for row in rows) for column in (0, 1))
    return "\n".join(f"{row[0]:{name}}  {row[1]:{kind}}  {row[2]}".rstrip() for row in rows)


def _inputs(stage: Stage, graph: Graph) -> str:
    if _takes_all(stage, graph):
        return "every stage"
    return " · ".join(
        f"{slot}: {', '.join(map(_weighted, sources))}" for slot, sources in stage.sources.items()
    )


def _takes_all(stage: Stage, graph: Graph) -> bool:
    """Whether a stage takes all others, as a report does: nothing worth drawing."""
    others = {other for other in graph.stages if not other.added and other.gives != stage.gives}
    return len(others) > 1 and others == set(stage.predecessors)


def _weighted(source: Source) -> str:
    name = source.stage.name if source.stage and not source.part else source.text
    weight = source.weight
    written = str(weight) if isinstance(weight, MovingWeight) else f"{weight:g}"
    return name if weight == 1 else f"{written}*{name}"


def as_mermaid(graph: Graph) -> str:
    """A Mermaid flowchart: stages as boxes, models rounded, files as documents."""
    return "\n".join(["flowchart LR", *dict.fromkeys(_lines(graph))])


def _lines(graph: Graph) -> Iterator[str]:
    # Node ids are made safe by a prefix: `end` and the like are words of Mermaid.
    for stage in graph.stages:
        yield f'    stage_{_id(stage.name)}["{stage.name}<br/><small>{stage.kind}</small>"]'
        if _takes_all(stage, graph):
            continue
        for source in (each for sources in stage.sources.values() for each in sources):
            before = source.stage
            if before is not None:
                yield f"    stage_{_id(before.name)} --> stage_{_id(stage.name)}"
                continue
            text = source.text.replace('"', "#quot;")
            shape = f'(["{text}"])' if isinstance(source.origin, ModelSpec) else f'[/"{text}"/]'
            yield f"    from_{_id(source.text)}{shape}"
            yield f"    from_{_id(source.text)} --> stage_{_id(stage.name)}"


def _id(name: str) -> str:
    """A node id: letters, digits and _, different for different names."""
    return "".join(c if c.isascii() and c.isalnum() else f"_{ord(c):x}_" for c in name)
