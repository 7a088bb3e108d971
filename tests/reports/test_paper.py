"""The published figures and criteria, against the reference text where it is at hand and against themselves."""

import re

import pytest

from reports import paper
from reports.claims import MEASURES


def test_retention_of_the_published_rows_is_what_the_paper_says():
    assert paper.TABLE1_L2P.geneval / paper.TABLE1_SOURCE.geneval == pytest.approx(0.927, abs=5e-4)
    assert paper.TABLE1_L2P.dpg / paper.TABLE1_SOURCE.dpg == pytest.approx(1.013, abs=5e-4)
    assert (paper.TABLE1_SOURCE.method, paper.TABLE1_L2P.method) == ("Z-Image-Turbo (source)", "L2P")


def test_tables_equal_the_reference_text(shared_data):
    reference = shared_data.parent / "reference" / "paper.md"
    if not reference.is_file():
        pytest.skip(f"no reference text at {reference}")
    rows = [
        [cell.strip() for cell in line.strip("|\n ").split("|")] for line in reference.open() if line.startswith("|")
    ]
    by_method = {(row[0], len(row)): row for row in rows}
    for row in paper.TABLE1:
        published = [None if cell == "-" else float(cell) for cell in by_method[row.method, 9][2:]]
        assert published == [*row.categories, row.dpg, row.geneval]
        assert by_method[row.method, 9][1] == row.space
    for method, how, *values in paper.TABLE2:
        assert by_method[method, 7][1:] == [how, *(f"{value:.2f}" for value in values)]
    claims = {row[0]: row for row in rows if re.fullmatch(r"C\d+", row[0])}
    assert [claim.id for claim in paper.CLAIMS] == list(claims)


def test_every_claim_has_a_criterion_that_a_machine_can_check():
    assert [claim.id for claim in paper.CLAIMS] == [f"C{k}" for k in range(1, 15)]
    for claim in paper.CLAIMS:
        assert claim.rule.relation in ("reaches", "above", "at least", "at most")
        assert claim.scope in ("miniature", "paper")
        assert all((claim.statement, claim.criterion, claim.source, claim.untested))
    quantities = [claim.rule.quantity for claim in paper.CLAIMS]
    assert len(set(quantities)) == len(quantities)
    assert set(MEASURES) <= set(quantities)


def test_c1_asks_what_the_owner_wrote():
    rule = paper.CLAIMS[0].rule
    assert (rule.relation, rule.bound) == ("reaches", pytest.approx(0.93 - 0.05))
