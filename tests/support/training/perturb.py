"""Adapters moved away from the base."""

from __future__ import annotations

import torch

from rlaif.models.backbone import Backbone, Role


def shaken(backbone: Backbone, role: Role, seed: int = 0, std: float = 0.3) -> None:
    """Fill the role's adapter with normal noise."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in backbone.role_parameters(role).values():
            parameter.copy_(std * torch.randn(parameter.shape, generator=generator))
