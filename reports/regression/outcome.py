"""One check of a regression as a value."""

from dataclasses import dataclass
from typing import Final, Literal

Outcome = Literal["better", "worse", "within noise", "not compared"]
BETTER: Final = "better"
WORSE: Final = "worse"
NOISE: Final = "within noise"
NOT_COMPARED: Final = "not compared"
OUTCOMES: tuple[Outcome, ...] = (WORSE, NOT_COMPARED, BETTER, NOISE)


@dataclass(frozen=True, kw_only=True)
class Check:
    """What was compared and how it came out; numbers are None where there are none, ``why`` says what they do not.

    ``change`` is after minus before, for a cost (``unit`` "x") after divided by before. ``p_value`` is of this check
    alone, ``p_corrected`` of all of them. ``part`` is "whole", "category", "cost" or "transfer".
    """

    name: str
    part: str = "whole"
    outcome: Outcome = NOISE
    before: float | None = None
    after: float | None = None
    change: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    p_corrected: float | None = None
    unit: str = ""
    decimals: int = 3
    higher_is_better: bool = True
    why: str = ""
