"""The paper's tables from whatever runs there are: every number is marked published, measured, predicted or not run."""

import pytest

from bench.records import read_json
from reports import paper, paper_tables, study_figures
from reports.__main__ import main
from reports.runs import found_runs, load_runs
from reports.studies import STUDIES
from reports.theme import LIGHT
from tests.reports.fake_run import predicted_4k
from tests.reports.test_results import RESULTS
from tests.reports.test_studies import run

NAMES = ("table1", "table2", "table3", "figure4", "figure5", "figure9a", "figure9b", "figure9c", "figure12", "figure15")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """What the command writes from the kept records."""
    out = tmp_path_factory.mktemp("tables")
    assert main(["tables", *map(str, sorted((RESULTS / "runs").iterdir())), "--out", str(out)]) == 0
    return out


def test_every_table_in_every_form(written):
    for name in NAMES:
        assert all((written / f"{name}.{end}").is_file() for end in ("md", "tex", "csv"))
        assert r"\toprule" in (written / f"{name}.tex").read_text()
    drawn = {file.stem for file in written.glob("*.png")}
    run = {"figure4", "figure5", "figure9a", "figure9b", "figure9c", "figure12", "figure15", "scratch"}
    assert drawn == {file.stem for file in written.glob("*.svg")} == run, "what was run, no more"


def test_what_was_not_run_says_so(written):
    assert "not run" in (written / "table1.md").read_text().lower()
    assert "| L2P, this code | trained |" in (written / "table2.md").read_text()
    table = (written / "figure9c.md").read_text()
    assert "| data-size | 1,000 images | – | – | – | not run | – | not run |" in table
    assert "published: 20k well above 10k" in table
    depth = (written / "figure9b.md").read_text()
    assert "| depth | all blocks | flux-mini-all | 32,000 |" in depth and "| depth | head alone |" in depth
    assert "measured" in depth and "not run" in depth


def test_a_figure_of_earlier_runs_does_not_stay_and_no_other_report_is_written_over(tmp_path, capsys):
    own, rendered = run(tmp_path / "own", 0.9), run(tmp_path / "rendered", 0.5, corpus={"maker": "fixture:rendered"})
    out = tmp_path / "out"
    assert main(["tables", str(own.path), str(rendered.path), "--out", str(out)]) == 0
    assert (out / "figure9a.png").is_file()
    (out / "mine.txt").write_text("mine")
    assert main(["tables", str(own.path), "--out", str(out)]) == 0
    assert not (out / "figure9a.png").exists() and "measured" not in (out / "figure9a.md").read_text()
    assert (out / "mine.txt").read_text() == "mine" and "figure9a.png" not in read_json(out / "report.json")["files"]
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    assert main([str(own.path), "--out", str(out)]) == 2
    assert "holds what `python -m reports tables` wrote" in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


def test_a_studys_folder_stands_for_its_runs_and_other_folders_are_left_out(tmp_path, capsys):
    runs = tmp_path / "runs"
    study = {"recipe": {"study": "data-source: own-1"}}
    run(runs / "data-source-flux-mini/own-1", 0.9, **study)
    run(runs / "data-source-flux-mini/own-1-seed1", 0.9, seed=1, **study)
    run(runs / "flux-mini", 0.9, study=None)
    (runs / "cost-cache").mkdir()
    folders = sorted(map(str, runs.iterdir()))
    for command in ("tables", "scorecard"):
        assert main([command, *folders, "--out", str(tmp_path / command)]) == 0
        assert "left out" in (told := capsys.readouterr().err) and "cost-cache is no run folder" in told
    names = {loaded.name for loaded in load_runs(found_runs(sorted(runs.iterdir()), print))}
    assert names == {"flux-mini", "data-source-flux-mini-own-1", "data-source-flux-mini-own-1-seed1"}
    assert main(["tables", str(runs / "cost-cache"), "--out", str(tmp_path / "none")]) == 2
    assert "cost-cache holds no run" in capsys.readouterr().err


def test_kinds_never_mix(tmp_path):
    runs = [
        run(tmp_path / "own", 0.9),
        run(tmp_path / "rendered", 0.5, corpus={"maker": "fixture:rendered"}),
        run(tmp_path / "shorter", 0.7, num_train_steps=500),
    ]
    points = study_figures.study_points(runs, "data-source").set_index(["setting", "recipe"])
    assert points.loc[("the source itself", "own"), "value"] == pytest.approx(
        runs[0].scored["l2p", "geneval"].summary.overall
    )
    assert points.loc[("the source itself", "shorter"), "train_images"] == 8000
    assert list(points.xs("another family's source")["kind"]) == ["not run"]
    assert set(points["kind"]) == {"measured", "not run"}
    tables = paper_tables.cell_tables(runs, predicted_4k())
    assert paper_tables.kinds(tables["figure4"][1]) == {"published": 1, "predicted": 2}
    assert paper_tables.kinds(tables["table2"][1]) == {"published": len(paper.TABLE2), "not run": 1}
    for _, frame in tables.values():
        assert set(frame["kind"]) <= {"published", "measured", "predicted", "not run"}
        valued = frame[frame["value"].notna()] if "value" in frame else frame.iloc[:0]
        assert set(valued["kind"]) <= {"measured"}


def test_corpora_compare_at_equal_steps_alone(tmp_path):
    """A longer transfer on a larger corpus is no point of figure 9c; curves may have runs of other lengths."""
    small = run(tmp_path / "small", 0.8, corpus={"num_prompts": 500})
    large = run(tmp_path / "large", 0.9, corpus={"num_prompts": 1000})
    longer = run(tmp_path / "longer", 0.95, corpus={"num_prompts": 2000}, num_train_steps=9000)
    points = study_figures.study_points([small, large, longer], "data-size")
    assert set(points[points["kind"] == "measured"]["recipe"]) == {"small", "large"}


def test_what_compares_at_equal_steps_is_drawn_by_setting(tmp_path):
    sizes = {"small": 500, "large": 1000}
    runs = [run(tmp_path / name, 0.8, corpus={"num_prompts": size}) for name, size in sizes.items()]
    draw = study_figures.study_drawings(study_figures.study_tables(runs))["figure9c"]
    (axes,) = draw(LIGHT).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["500\nimages", "1,000\nimages"]


def test_settings_that_are_expected_are_those_that_reports_read():
    assert set(study_figures.EXPECTED) == set(STUDIES) == {study for study, _, _ in study_figures.FIGURES.values()}
    from reproduce.recipes import find_recipe
    from reproduce.studies import arms
    from tests.reproduce.test_studies import as_run

    usual = find_recipe("flux")
    for name, expected in study_figures.EXPECTED.items():
        found = {STUDIES[name].setting(as_run(recipe)) for arm, recipe in arms(name, usual).items() if arm != "usual"}
        assert found <= {*expected, *(one for one in found if one.endswith("'s source"))}
        assert set(expected) - {"another family's source"} <= found


def test_the_same_run_counts_once(tmp_path):
    runs = [run(tmp_path / "own", 0.9), run(tmp_path / "copy", 0.9, name="own")]
    runs += [run(tmp_path / "rendered", 0.5, corpus={"maker": "fixture:rendered"})]
    points = study_figures.study_points(runs, "data-source")
    assert list(points[points["kind"] == "measured"]["seeds"]) == [1, 1]
    with pytest.raises(ValueError, match="one recipe"):
        load_runs([one.path for one in runs])
