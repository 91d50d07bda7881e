"""What happens to a record that cannot be trained on. Imports no torch: settings name it."""

from typing import Literal

Unusable = Literal["error", "skip"]
