"""The choice for records that cannot be trained on. Imports no torch: settings name it."""

from typing import Literal

Unusable = Literal["error", "skip"]
