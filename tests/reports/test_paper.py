"""The published figures and criteria, against the printed tables and against themselves."""

import pytest

from bench.records import read_json
from reports import paper
from reports.claims import MEASURES


def test_retention_of_the_published_rows_is_what_the_paper_says():
    assert paper.TABLE1_L2P.geneval / paper.TABLE1_SOURCE.geneval == pytest.approx(0.927, abs=5e-4)
    assert paper.TABLE1_L2P.dpg / paper.TABLE1_SOURCE.dpg == pytest.approx(1.013, abs=5e-4)
    assert (paper.TABLE1_SOURCE.method, paper.TABLE1_L2P.method) == ("Z-Image-Turbo (source)", "L2P")


def test_tables_equal_the_printed_ones(recorded):
    printed = read_json(recorded / "paper_tables.json")
    table1 = [[row.method, row.space, *row.categories, row.dpg, row.geneval] for row in paper.TABLE1]
    assert sorted(table1, key=str) == sorted(printed["table1"], key=str) and len(table1) == 11
    assert [list(row) for row in paper.TABLE2] == printed["table2"]
    assert [claim.id for claim in paper.CLAIMS] == printed["claims"]


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
