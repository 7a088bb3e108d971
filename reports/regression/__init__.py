"""The gate: is a run worse than its baseline by more than noise, or was something not compared at all?"""

from reports.regression.checks import Check, compare

__all__ = ["Check", "compare"]
