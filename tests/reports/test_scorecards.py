"""Scorecards: a page and a picture a family, and the families side by side, where noise is called noise."""

import io
import re

import pytest
from PIL import Image

from bench.records import read_json, write_json
from reports import families
from reports.__main__ import main
from reports.claims import judge_claims
from reports.runs import load_run, load_runs
from reports.scorecards import costs_shown, dpg_table, facts, make_cards, sheet, side_by_side, write_scorecards
from reports.theme import LIGHT
from tests.reports.fake_run import fake_run, predicted_4k
from tests.reports.test_results import RESULTS

EVIL = "<script>alert('x')</script>"


def family_runs(folder, name, accuracy, seeds=(0,), **changes):
    given = {"source_accuracy": 0.95, "num_prompts": 20, "num_images": 1, **changes}
    paths = [
        fake_run(folder / f"{name}-{seed}", name=name, family=name, pixel_accuracy=accuracy, seed=seed, **given)
        for seed in seeds
    ]
    return load_runs(paths)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The scorecards of two families, one with pictures and a device that tries to break out, as the command writes."""
    folder = tmp_path_factory.mktemp("cards")
    runs = [
        *family_runs(folder, "flux", 0.9, pictures=True, num_prompts=4),
        *family_runs(folder, "sd3", 0.4, num_prompts=4),
    ]
    manifest = runs[0].path / "run.json"
    write_json(manifest, {**read_json(manifest), "device": EVIL})
    assert main(["scorecard", *(str(run.path) for run in runs), "--out", str(folder / "out")]) == 0
    return folder / "out"


def test_a_page_and_two_pictures_a_family_and_the_tables(written):
    names = {file.name for file in written.iterdir()}
    cards = {f"{family}{end}" for family in ("flux", "sd3") for end in (".html", ".png", "-dark.png")}
    tables = {f"{name}.{end}" for name in ("families", "pairs") for end in ("csv", "md", "tex")}
    assert names == cards | tables | {"families.png", "families.svg", "index.html", "report.json"}
    for name in ("flux.png", "sd3-dark.png"):
        with Image.open(written / name) as image:
            assert image.width > 1500 and len(image.getcolors(1 << 24)) > 50


def test_a_card_shows_its_family_at_one_glance(written):
    page, other = (written / "flux.html").read_text(), (written / "sd3.html").read_text()
    for part in (
        "GenEval kept",
        "DPG-Bench kept",
        "Held-out pairs kept",
        "Parameters trained",
        "H100, modelled",
        "C13",
    ):
        assert part in page
    assert 'aria-label="correct"' in page and "these records hold none" in other
    assert EVIL not in page and "&lt;script&gt;" in page
    loaded = re.findall(r'(?:src|srcset|href)="([^"#]+)', page)
    assert len(loaded) > 10 and all(one.startswith("data:") or one == "index.html" for one in loaded)
    index = (written / "index.html").read_text()
    assert 'href="flux.html"' in index and 'href="sd3.html"' in index


def test_side_by_side_calls_noise_noise(tmp_path):
    leading = [
        family_runs(tmp_path, "flux", 0.9, seeds=(0, 1)),
        family_runs(tmp_path, "sd3", 0.4, seeds=(0, 1)),
        family_runs(tmp_path, "zimage", 0.88, seeds=(0, 1)),
    ]
    pairs = {(pair.suite, pair.first, pair.other): pair for pair in families.compared(leading)}
    assert len(pairs) == 9
    assert pairs["geneval", "FLUX", "SD3"].outcome == "FLUX keeps more"
    assert pairs["geneval", "FLUX", "SD3"].change == pytest.approx(-0.5, abs=0.15)
    assert pairs["geneval", "FLUX", "Z-Image"].outcome == families.NOISE
    assert all(pair.p_corrected >= pair.p_value for pair in pairs.values())
    table = families.families_table(leading, list(pairs.values()))
    standing = table[table["suite"] == "geneval"].set_index("family")["verdict"]
    assert standing["FLUX"] == "more than SD3; within noise of the others"
    assert standing["SD3"] == "less than FLUX, Z-Image"
    shown = families.pairs_shown(list(pairs.values()), {"geneval": 3, "heldout": 3, "dpg": 1})
    assert "FLUX keeps more (-0." in shown.set_index("Families").loc["SD3 against FLUX", "GenEval"]


def test_flux_is_not_taken_for_flux2():
    pair = families.Pair(
        suite="geneval",
        title="GenEval",
        first="FLUX",
        other="FLUX.2",
        change=0.3,
        p_value=0.0,
        p_corrected=0.0,
        outcome="FLUX.2 keeps more",
    )
    assert families._standing("FLUX", "geneval", [pair]) == "less than FLUX.2"
    assert families._standing("FLUX.2", "geneval", [pair]) == "more than FLUX"


def test_a_better_source_is_no_better_transfer(tmp_path):
    """The one draws better by far, but both lost as much."""
    leading = [
        family_runs(tmp_path, "flux", 0.9, source_accuracy=0.95),
        family_runs(tmp_path, "sd3", 0.6, source_accuracy=0.65),
    ]
    (pair,) = [pair for pair in families.compared(leading) if pair.suite == "geneval"]
    assert pair.outcome == families.NOISE


def test_other_prompts_are_not_compared(tmp_path):
    leading = [family_runs(tmp_path, "flux", 0.9), family_runs(tmp_path, "sd3", 0.9, num_prompts=10)]
    (pair,) = [pair for pair in families.compared(leading) if pair.suite == "geneval"]
    assert pair.outcome == families.NOT_COMPARED and "same number of images" in pair.why
    summary = leading[1][0].path / "scores/l2p/dpg/summary.json"
    passport = {**read_json(summary)["passport"], "prompts_sha256": "other"}
    write_json(summary, {**read_json(summary), "passport": passport})
    pairs = families.compared([leading[0], [load_run(leading[1][0].path)]])
    assert "measured otherwise" in next(pair.why for pair in pairs if pair.suite == "dpg")


def test_families_stand_side_by_side_at_a_length_that_all_have(tmp_path):
    """Most seeds in every family, then the longest; other lengths are not compared."""

    def transfers(family, seeds, steps):
        names = {seed: tmp_path / f"{family}-{steps}-{seed}" for seed in seeds}
        given = {"family": family, "name": f"{family}-{steps}", "num_prompts": 4, "num_train_steps": steps}
        return load_runs([fake_run(path, seed=seed, **given) for seed, path in names.items()])

    flux = [*transfers("flux", (0, 1), 1000), *transfers("flux", (0,), 3000), *transfers("flux", (0, 1, 2), 9000)]
    sd3 = [*transfers("sd3", (0, 1), 1000), *transfers("sd3", (0,), 3000)]
    leading = [flux[3:], sd3[2:]]

    def chosen(*runs):
        return [(seeds[0].num_train_images, len(seeds)) for seeds in families.at_one_length(runs, leading)]

    assert chosen(flux, sd3) == [(16_000, 2)] * 2
    assert chosen(flux[1:], sd3) == [(48_000, 1)] * 2, "one seed each: the longer"
    assert families.at_one_length([flux[3:], sd3], leading) == leading
    outcomes = {(pair.outcome, pair.why) for pair in families.compared(leading)}
    assert outcomes == {(families.NOT_COMPARED, "trained on 144,000 and on 48,000 images")}


def test_only_families_of_one_world_stand_side_by_side(tmp_path):
    said, opened = ({"recipe": {"world": f"layouts {name}"}, "num_prompts": 4} for name in ("said", "open"))
    runs = [
        *family_runs(tmp_path, "flux", 0.9, **said),
        *family_runs(tmp_path, "flux", 0.5, seeds=(1,), **opened),
        *family_runs(tmp_path, "sd3", 0.4, **said),
    ]
    cards = write_scorecards([run.path for run in runs], tmp_path / "out")
    assert [card.name for card in cards] == ["flux-layouts-open", "flux-layouts-said", "sd3"]
    table = (tmp_path / "out/families.md").read_text()
    assert "miniature size, layouts said" in table and "| FLUX |" in table and "| SD3 |" in table
    assert (tmp_path / "out/pairs.md").read_text().count("against") == 1
    both = [*runs, *family_runs(tmp_path, "sd3", 0.4, seeds=(1,), **opened)]
    write_scorecards([run.path for run in both], tmp_path / "both")
    names = {file.name for file in (tmp_path / "both").glob("families*.md")}
    assert names == {"families-layouts-open.md", "families-layouts-said.md"}


def test_kept_records_give_the_cards_that_runs_give(tmp_path):
    runs = load_runs(sorted((RESULTS / "runs").iterdir()))
    cards = make_cards(runs, judge_claims(runs, []))
    assert [card.name for card in cards] == [
        *("flux-layouts-open", "flux-layouts-said", "sd3", "zimage", "qwenimage", "flux2")
    ]
    assert all(len(card.pairs) == 6 for card in cards[1:]), "one prompt a task, of each family's first run"
    card = cards[1]
    assert [run.name for run in card.leading] == ["flux-mini-full"]
    told = facts(card.leading)
    assert told["Trained on"].startswith("480,000 images") and told["Alarms"] == "0"
    table = dpg_table(card.leading[0])
    assert set(table["task"]) == {"global", "entity", "attribute", "relation", "other"} and len(table) == 10
    side_by_side(cards, tmp_path)
    committed = RESULTS.parents[1] / "scorecards"
    for name in ("families.md", "pairs.md"):
        assert (tmp_path / name).read_text() == (committed / name).read_text()
    assert {f"{card.name}.{end}" for card in cards for end in ("html", "png")} <= {
        file.name for file in committed.iterdir()
    }


def test_costs_are_those_of_the_family_at_full_size():
    table = costs_shown("zimage", predicted_4k())
    assert list(table["Model"]) == ["Source, 4096 px", "Pixel model, 4096 px"]
    assert list(table["TFLOP"]) == ["2,872.0", "60.0"]
    assert costs_shown("flux", predicted_4k()).empty


def test_a_sheet_holds_every_part():
    parts = []
    for height in (20, 60, 10):
        buffer = io.BytesIO()
        Image.new("RGB", (30, height), (height, 0, 0)).save(buffer, "PNG")
        parts.append(buffer.getvalue())
    picture = sheet(parts, LIGHT)
    counts = {color: count for count, color in picture.getcolors()}
    wide = sheet(parts, LIGHT, parts[0])
    assert wide.width == picture.width and wide.height > picture.height + 20
    assert [counts[height, 0, 0] for height in (20, 60, 10)] == [30 * height for height in (20, 60, 10)]
