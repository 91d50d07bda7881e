"""Settings of DPO, with the config class selected by the loss. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, ModelWrapValidatorHandler, field_validator, model_validator

from constitution.errors import expected_one_of
from rlaif.settings import SettingsModel
from rlaif.training.config import HeldOutConfig, PolicyConfig, rate_field


class DPOConfig(HeldOutConfig, PolicyConfig):
    """Settings of DPO. A loss with settings of its own has a subclass, which `loss` selects.

    >>> DPOConfig.model_validate({"loss": "robust", "label_noise": 0.1})
    RobustConfig(...)
    """

    learning_rate: float = rate_field(
        5e-5,
        1e-6,
        "TRL: 1e-6 for a whole model; M. Labonne's NeuralHermes-2.5: 5e-5 for an adapter",
    )
    epochs: int = Field(default=2, ge=1, description="passes over the pairs (ours)")
    batch_size: int = Field(default=8, ge=1, description="pairs per optimizer step (TRL: 8)")
    beta: float = Field(
        default=0.1,
        gt=0,
        description="how strongly the policy is held to the reference, factor of the log-ratio in "
        "nats; some losses have a default of their own (arXiv:2305.18290)",
    )
    loss: str = Field(
        default="soft_sigmoid",
        description="the loss of a pair, a name in LOSSES of losses/__init__.py; by default cDPO "
        "with the pair's own label (ours)",
    )

    sft_weight: float = Field(
        default=0.0,
        ge=0,
        description="weight of the preferred response's negative log-likelihood per token, added "
        "to every loss so that the policy does not move away from both responses "
        "(arXiv:2404.19733, whose weights amount to 1; ours: 0, off)",
    )

    @classmethod
    def variant(cls, data: Mapping[str, Any]) -> type[DPOConfig]:
        """Config class of the loss that `data` selects; `cls` for an unknown loss."""
        from rlaif.algorithms.dpo.losses import LOSSES  # its files import this one

        name = data.get("loss", DPOConfig.model_fields["loss"].default)
        return LOSSES[name].config if isinstance(name, str) and name in LOSSES else cls

    @classmethod
    def variants(cls) -> dict[str, type[SettingsModel]]:
        """The config class of every loss."""
        from rlaif.algorithms.dpo.losses import LOSSES

        return {f"loss={name}": loss.config for name, loss in LOSSES.items()}

    @classmethod
    def choices(cls) -> dict[str, tuple[str, ...]]:
        """The names of the losses."""
        from rlaif.algorithms.dpo.losses import LOSSES

        return {"loss": tuple(LOSSES)}

    def __new__(cls, **settings: Any) -> Self:
        """Construct the config class of the selected loss, as validation does."""
        made = cls.variant(settings) if cls is DPOConfig else cls
        return super().__new__(made)  # type: ignore[return-value]

    @model_validator(mode="wrap")
    @classmethod
    def _select_variant(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(data, dict):
            return handler(data)
        variant = cls.variant(data)
        if variant is cls:
            cls._require_own_settings(data)
            return handler(data)
        if cls is DPOConfig:
            return variant.model_validate(data)  # type: ignore[return-value]
        raise ValueError(f"{cls.__name__} is of another loss: expected {variant.__name__}")

    @classmethod
    def _require_own_settings(cls, data: dict[str, Any]) -> None:
        """Refuse a loss without its own settings, and settings of a loss that is not selected."""
        from rlaif.algorithms.dpo.losses import LOSSES

        required = [key for key, field in cls.model_fields.items() if field.is_required()]
        for key in required:
            if key not in data:
                raise ValueError(f"{key} belongs to loss={data['loss']}: set both or neither")
        for key in data.keys() - cls.model_fields.keys():
            for name, loss in LOSSES.items():
                if key in loss.config.model_fields:
                    raise ValueError(f"{key} belongs to loss={name}: set both or neither")

    @field_validator("loss")
    @classmethod
    def _require_known(cls, loss: str) -> str:
        from rlaif.algorithms.dpo.losses import LOSSES

        if loss not in LOSSES:
            raise ValueError(f"unknown loss {loss!r}; {expected_one_of(loss, LOSSES)}")
        return loss
