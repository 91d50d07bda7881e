"""merge: an adapter folded into its model, so that other stages may begin from the result.

Where a stage takes a model and names a stage that trains an adapter, the graph adds this stage in
between by itself, as NAME-model.
"""

from __future__ import annotations

from collections.abc import Iterator

from rlaif.pipeline.context import RunContext
from rlaif.pipeline.stage import ArtifactType, Stage, one


class MergeStage(Stage):
    """Makes a whole model, in float32, of a policy that is an adapter."""

    kind = "merge"
    takes = {"policy": one(ArtifactType.POLICY, "the adapter")}
    gives = ArtifactType.MODEL

    def refused(self) -> Iterator[tuple[str, str]]:
        policy = self.source("policy")
        if policy.stage is not None and not policy.stage.trains_adapter:
            yield (
                "policy",
                f"{policy.text} trains a whole model (lora: null), so there is nothing to merge; "
                f"remove {self.name}, and name {policy.text} where it was taken",
            )

    def does(self, context: RunContext) -> str:
        return f"folding the adapter of {self.source('policy').title} into its model"

    def run(self, context: RunContext) -> None:
        from rlaif.models.merge import merge_adapter

        policy = self.source("policy").stage
        assert policy is not None
        assert policy.base is not None
        merge_adapter(policy.base.model, policy.folder, self.folder, "float32")
