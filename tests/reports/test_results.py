"""The committed results: the page rebuilds from what is kept, the verdicts stand, README says what the records say."""

from pathlib import Path

import pytest

from bench.records import read_json
from reports.__main__ import main
from reports.paper import CLAIMS
from reports.readme import BEGIN, END, results_table, split
from reports.runs import load_runs

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs/results/miniature"
SAID, OPEN, NONE = ("flux", "layouts said"), ("flux", "layouts open"), ("", "")
SD3, ZIMAGE, QWENIMAGE, FLUX2 = ((family, "layouts said") for family in ("sd3", "zimage", "qwenimage", "flux2"))
REPRODUCED = {
    "C1": {SAID: 1.006, OPEN: 0.907, SD3: 0.891, ZIMAGE: 0.871, QWENIMAGE: 0.834, FLUX2: 0.917},
    "C3": {SAID: 0.051},
    "C4": {SAID: -0.015},
    "C7": {SAID: 0.463},
    "C9": {SAID: 0.990, OPEN: 0.973, SD3: 0.948, ZIMAGE: 0.908, QWENIMAGE: 0.913, FLUX2: 0.887},
    "C14": {SAID: 1.006, OPEN: 0.907, SD3: 0.891, ZIMAGE: 0.871, QWENIMAGE: 0.834, FLUX2: 0.917},
}
NOT_REPRODUCED = {
    "C2": {SAID: 0.928, OPEN: 0.856, SD3: 0.832, ZIMAGE: 0.808, QWENIMAGE: 0.857, FLUX2: 0.816},
    "C5": {SAID: 0.029},
    "C6": {NONE: 1.160},
    "C8": {SAID: -0.074},
    "C10": {SAID: 0.671},
    "C13": {NONE: 3},
}
NOT_TESTED = {"C12": {SAID: 0.368}}  # where there is a number that decides nothing


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory):
    """The report of the kept records, by the command that docs/results/miniature/README.md gives."""
    out = tmp_path_factory.mktemp("rebuilt")
    assert main([*map(str, sorted((RESULTS / "runs").iterdir())), "--out", str(out)]) == 0
    return out


def test_the_verdicts_are_those_of_the_files(rebuilt):
    rows = read_json(rebuilt / "claims.json")
    assert list(dict.fromkeys(row["id"] for row in rows)) == [claim.id for claim in CLAIMS]
    by_verdict = {"reproduced": REPRODUCED, "not reproduced": NOT_REPRODUCED, "not tested": NOT_TESTED}
    found = {verdict: {} for verdict in by_verdict}
    for row in rows:
        if row["value"] is not None or row["verdict"] != "not tested":
            case = (row["family"] or "", row["world"] or "")
            found[row["verdict"]].setdefault(row["id"], {})[case] = pytest.approx(row["value"], abs=5e-4)
    assert found == by_verdict
    (opened,) = [row for row in rows if (row["id"], row["family"], row["world"]) == ("C1", *SAID)]
    assert opened["n"] == 912


def test_the_page_says_what_the_results_say(rebuilt):
    page = (rebuilt / "index.html").read_text()
    for number in (
        "100.6&thinsp;%",
        "(97.1, 103.7)",
        "90.7&thinsp;%",
        "92.8&thinsp;%",
        "Pixel model 0.988",
        "Source 91.4",
    ):
        assert number in page
    assert "All 10717 training images carry the prompt and seed" in page
    assert "Corpus: 10,717 images drawn by the source, 1,283 rejected." in page
    assert "Every stage’s files were there." in page
    assert page.count('title="expected') + page.count('aria-label="correct"') > 12, "the pictures are there"


def test_what_is_committed_is_what_the_records_give(rebuilt):
    for name in ("scorecard.md", "table1.md", "table1.tex"):
        assert (rebuilt / name).read_text() == (RESULTS / name).read_text()
    for new, old in zip(read_json(rebuilt / "claims.json"), read_json(RESULTS / "claims.json"), strict=True):
        numbers = ("value", "ci95")
        assert {**new, **dict.fromkeys(numbers)} == {**old, **dict.fromkeys(numbers)}
        assert all(new[name] == pytest.approx(old[name]) for name in numbers)


def test_readme_says_what_the_records_say():
    readme = ROOT / "README.md"
    runs = load_runs(sorted((RESULTS / "runs").iterdir()))
    assert split(readme.read_text(), readme)[1] == results_table(runs)
    assert "0.978 → 0.958, kept 98.0 % (91.7, 104.3)" in results_table(runs)


def test_the_readme_command_writes_between_the_markers_only(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"# Mine\n\n{BEGIN}\nold\n{END}\nafter\n")
    runs = [str(RESULTS / "runs" / name) for name in ("flux-mini", "flux-mini-all")]
    assert main(["readme", *runs, "--readme", str(readme)]) == 0
    table = results_table(load_runs(runs))
    assert readme.read_text() == f"# Mine\n\n{BEGIN}\n{table}{END}\nafter\n"
    assert table.count("\n") == 4 and "2,000 steps, one seed" in table  # head, line, the short transfer, the paper


@pytest.mark.parametrize("text", ["nothing", f"{END} {BEGIN}", f"{BEGIN} {BEGIN} {END}"])
def test_a_readme_without_its_markers_is_refused_and_stays(tmp_path, capsys, text):
    readme = tmp_path / "README.md"
    readme.write_text(text)
    assert main(["readme", str(RESULTS / "runs/flux-mini"), "--readme", str(readme)]) == 2
    assert "each once" in capsys.readouterr().err
    assert readme.read_text() == text


def test_results_are_small_and_hold_no_path_of_a_machine():
    files = [file for file in (RESULTS / "runs").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 100_000 * len(list((RESULTS / "runs").iterdir()))
    for run in load_runs(sorted((RESULTS / "runs").iterdir())):
        folder, _, source = run.recipe["source"].rpartition("/")
        assert folder == "reproduce/miniature/weights" and source.removesuffix("-open") == run.family
        assert run.manifest["inputs"]["corpus"]["metadata_sha256"] == run.corpus.metadata_sha256
