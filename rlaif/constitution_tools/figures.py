"""The redundancy matrix as a picture: blue for principles that agree, red for opposites."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from rlaif.constitution_tools.ablate import Floats

_STYLE = {"svg.fonttype": "none", "svg.hashsalt": "rlaif", "font.size": 9}
_NUMBERS_UP_TO = 20  # principles; with more, the numbers in the cells would overlap


def draw_redundancy(names: Sequence[str], r: Floats, path: Path) -> None:
    """Write the (K, K) matrix to `path`, in the format of its suffix (.svg, .png, .pdf)."""
    count = len(names)
    side = 2.2 + 0.42 * count  # inches
    with rc_context(_STYLE):
        figure = Figure(figsize=(side + 0.8, side), layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(r, cmap="RdBu", vmin=-1, vmax=1)
        axes.set_xticks(range(count), names, rotation=60, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(count), names)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        if count <= _NUMBERS_UP_TO:
            for j, k in np.argwhere(~np.isnan(r)):
                color = "white" if abs(r[j, k]) > 0.6 else "black"
                text = f"{r[j, k]:.2f}".replace("-0.00", "0.00")
                axes.text(k, j, text, ha="center", va="center", color=color, size=7)
        figure.colorbar(image, ax=axes, shrink=0.7, label="redundancy of two principles, r")
        figure.savefig(path, dpi=160, metadata=_undated(path))


def _undated(path: Path) -> dict[str, None]:
    """Metadata without a date, so that equal pictures are equal files."""
    return {"Date": None} if path.suffix == ".svg" else {}
