"""Reports: tables, figures, claims, scorecard, regression and the page, from run folders alone (no torch)."""

from reports.page import write_report

__all__ = ["write_report"]
