"""The colours of figures and page, light and dark: one hue for the source, one for the pixel model, everywhere."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Theme:
    """Colours as hex strings; ``source`` and ``pixel`` can be told apart by readers who see no red or green."""

    name: str
    background: str
    text: str
    muted: str
    grid: str
    source: str
    pixel: str
    good: str
    bad: str

    def of(self, subject: str) -> str:
        """The subject's hue."""
        return self.source if subject == "source" else self.pixel

    def rc(self) -> dict[str, Any]:
        """Matplotlib settings for this theme."""
        return {
            **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), self.background),
            **dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor"), self.text),
            **dict.fromkeys(("xtick.color", "ytick.color"), self.muted),
            **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
            "text.parse_math": False,  # names from outside may hold a dollar sign
            "axes.edgecolor": self.grid,
            "grid.color": self.grid,
            "grid.linewidth": 0.8,
            "axes.axisbelow": True,
            "axes.titlesize": 10.5,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.titlepad": 8,
            "font.size": 9.5,
            "legend.fontsize": 9,
            "xtick.major.size": 0,
            "ytick.major.size": 0,
            "figure.constrained_layout.use": True,
        }


LIGHT = Theme(
    name="light",
    background="#ffffff",
    text="#1a1d23",
    muted="#646b78",
    grid="#e4e6eb",
    source="#5a7fb5",
    pixel="#d2622a",
    good="#1f8a4c",
    bad="#c0362c",
)
DARK = Theme(
    name="dark",
    background="#181b21",
    text="#e8eaee",
    muted="#99a1ae",
    grid="#2c313a",
    source="#86a8dc",
    pixel="#f08a52",
    good="#4cc27d",
    bad="#f0776c",
)
THEMES = (LIGHT, DARK)
