"""A folder scored from end to end: layouts, completeness, resuming, several processes, bad input."""

import json
import threading
from pathlib import Path

import pytest
from PIL import Image

from bench.dpg import score as score_module
from bench.dpg.images import grid_sizes, read_crops, read_folder
from bench.dpg.score import ScoreConfig, score_folder
from bench.records import IncompleteError, read_json, read_jsonl, read_summary
from bench.runner import Process
from l2p.errors import InputError

SIDE = 8
ROWS = [("first", 1, 0), ("a", 1, 0), ("a", 2, 1), ("a_1", 1, 0), ("b.c", 1, 0, "other - count (2)")]
ITEMS = ("first", "a", "a_1", "b.c")


def tile(level: int) -> Image.Image:
    return Image.new("RGB", (SIDE, SIDE), (level, level, level))


def grid(*levels: int) -> Image.Image:
    image = Image.new("RGB", (2 * SIDE, 2 * SIDE))
    for k, level in enumerate(levels):
        image.paste(tile(level), (k % 2 * SIDE, k // 2 * SIDE))
    return image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Grids of all items: crop k of each is bright where k is even."""
    images = tmp_path / "images"
    images.mkdir()
    for item_id in ITEMS:
        grid(200, 10, 200, 10).save(images / f"{item_id}.png")
    return images


def bright(image: Image.Image, questions: list[str]) -> list[str]:
    """A VQA: yes to everything about a bright image."""
    return ["yes" if image.getpixel((0, 0))[0] > 100 else "no"] * len(questions)


def score(folder, file, out, vqa=bright, **options):
    config = ScoreConfig(variant="corrected", device="cpu", **options.pop("config", {}))
    return score_folder(folder, file.path, vqa, out, **{"resolution": SIDE, "config": config} | options)


def test_a_folder_of_grids_gives_answers_scores_and_summaries(folder, questions, tmp_path):
    summary = score(folder, questions(*ROWS), tmp_path / "out")
    out = tmp_path / "out"
    assert (summary.overall, summary.num_expected, summary.num_scored) == (50.0, 4, 4)
    assert summary == read_summary(out / "summary-corrected.json")
    assert summary.by_category == {"entity": 50.0, "entity - whole": 50.0, "other": 50.0, "other - count": 50.0}
    assert summary.passport["models"]["vqa"]["comparability"] == "not comparable with published scores"
    official = read_summary(out / "summary-official.json")
    # the first row is dropped; a dot in an id hides the item; categories come from the last, dark crop
    assert official.passport["left_out"] == ["first", "b.c"]
    assert (official.overall, official.num_scored, official.by_category["entity"]) == (50.0, 2, 0.0)
    answers = read_jsonl(out / "answers.jsonl")
    assert [(row["prompt_id"], row["index"]) for row in answers] == [(i, k) for i in ITEMS for k in range(4)]
    assert answers[4]["answers"] == {"1": "yes", "2": "yes"} and answers[5]["answers"] == {"1": "no", "2": "no"}
    assert (out / "scores.jsonl").read_bytes() == (out / "scores-corrected.jsonl").read_bytes()
    assert [row["value"] for row in read_jsonl(out / "scores-corrected.jsonl")] == [0.5] * 4
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"{item_id}.png" for item_id in ITEMS)


def test_a_tile_named_like_another_item_is_that_items_image(folder, questions, tmp_path):
    (folder / "a.png").unlink()
    for k in range(4):
        tile(200).save(folder / f"a_{k}.png")  # a_1 is an item
    with pytest.raises(ValueError, match="a_1.png: 8 x 8, expected 16 x 16"):
        score(folder, questions(*ROWS), tmp_path / "out")


def test_tiles_score_as_their_grid(questions, tmp_path):
    file = questions(("z", 1, 0), ("a", 1, 0), ("a", 2, 1))
    grids, tiles = tmp_path / "grids", tmp_path / "tiles"
    for directory in (grids, tiles):
        directory.mkdir()
    for item_id in "za":
        grid(200, 10, 10, 200).save(grids / f"{item_id}.png")
        for k, level in enumerate((200, 10, 10, 200)):
            tile(level).save(tiles / f"{item_id}_{k}.png")
    summaries = [score(images, file, tmp_path / "out" / images.name) for images in (grids, tiles)]
    assert summaries[0].overall == summaries[1].overall == 50.0
    rows = [read_jsonl(tmp_path / "out" / name / "answers.jsonl") for name in ("grids", "tiles")]
    assert [row["answers"] for row in rows[0]] == [row["answers"] for row in rows[1]]


def test_fewer_tiles_may_be_scored(folder, questions, tmp_path):
    assert score(folder, questions(*ROWS), tmp_path / "out", pic_num=1).overall == 100.0
    assert grid_sizes(1, 8) == {(16, 16), (8, 8)}
    assert grid_sizes(2, 8) == {(16, 16), (16, 8)}
    assert grid_sizes(4, 8) == {(16, 16)}


def test_crops_lie_in_rows_and_know_their_item(folder, questions):
    grid(1, 2, 3, 4).save(folder / "a.png")
    found = read_folder(folder, questions(*ROWS), pic_num=4, resolution=SIDE)
    crops = list(read_crops(found.items["a"], SIDE))
    assert [crop.getpixel((3, 3))[0] for crop in crops] == [1, 2, 3, 4]
    assert [(crop.info["item_id"], crop.info["crop"]) for crop in crops] == [("a", k) for k in range(4)]


def _remove(folder):
    (folder / "a.png").unlink()


def _stray(folder):
    tile(3).save(folder / "stranger.png")


def _fifth(folder):
    tile(3).save(folder / "first_4.png")


def _both(folder):
    tile(3).save(folder / "first_0.png")


def _twice(folder):
    grid(1, 1, 1, 1).save(folder / "a.webp")


def _small(folder):
    tile(3).save(folder / "a.png")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_remove, r"1 of 16 expected images cannot be scored:\n  a.png"),
        (_stray, "1 images belong to no item .* such as stranger.png"),
        (_fifth, "beyond --pic-num 4 .*first_4.png"),
        (_both, "a grid and single tiles, such as 'first'"),
        (_twice, "show the same crop"),
        (_small, "a.png: 8 x 8, expected 16 x 16"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused_before_the_model_is_asked(folder, questions, tmp_path, spoil, message):
    spoil(folder)

    def never(image, questions):
        raise AssertionError("asked")

    with pytest.raises(ValueError, match=message):
        score(folder, questions(*ROWS), tmp_path / "out", vqa=never)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pic_num": 5}, "--pic-num must be 1 to 4"),
        ({"pic_num": 0}, "--pic-num must be 1 to 4"),
        ({"resolution": 0}, "--resolution is the side"),
        ({"resolution": 7}, "4 images have the wrong size"),
    ],
)
def test_bad_settings_are_refused(folder, questions, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        score(folder, questions(*ROWS), tmp_path / "out", **options)


def test_results_never_land_among_the_images(folder, questions, tmp_path):
    for out in (folder, folder / "scores", folder / ".." / folder.name):
        with pytest.raises(ValueError, match="lies in the image folder"):
            score(folder, questions(*ROWS), out)
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        score(tmp_path / "absent", questions(*ROWS), tmp_path / "out")


def test_an_unreadable_image_is_named_and_never_counted_away(folder, questions, tmp_path):
    whole = (folder / "a.png").read_bytes()
    (folder / "a.png").write_bytes(whole[: len(whole) // 2])
    file, out = questions(*ROWS), tmp_path / "out"
    with pytest.raises(IncompleteError, match="a: unanswered: it cannot be read"):
        score(folder, file, out)
    assert not (out / "summary.json").exists()
    partial = score(folder, file, tmp_path / "partial", config={"allow_partial": True})
    assert (partial.num_expected, partial.num_scored, partial.passport["partial"]) == (4, 3, True)
    assert list(partial.passport["details"]["unscored_items"]) == ["a"]
    (folder / "a.png").write_bytes(whole)  # repaired: only that item is asked again
    asked = []
    again = score(folder, file, out, vqa=lambda image, q: asked.append(image.info["item_id"]) or bright(image, q))
    assert (again.num_scored, set(asked)) == (4, {"a"})


def test_a_killed_run_goes_on_where_it_stopped(folder, questions, tmp_path):
    file, asked = questions(*ROWS), []

    def dies(image, q):
        if len(asked) == 6:
            raise ConnectionError("the worker died")
        asked.append(image.info["item_id"])
        return bright(image, q)

    with pytest.raises(ConnectionError):
        score(folder, file, tmp_path / "out", vqa=dies)
    asked_before = len(asked)
    with open(tmp_path / "out" / "answers.part0.jsonl", "a") as part:
        part.write('{"prompt_id": "torn')
    score(folder, file, tmp_path / "out", vqa=lambda image, q: asked.append("again") or bright(image, q))
    assert asked_before == 6 and len(asked) == 6 + 12  # one whole item of four was kept
    score(folder, file, tmp_path / "unbroken")
    for name in ("answers.jsonl", "scores.jsonl", "summary.json", "summary-official.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()


def test_two_processes_give_what_one_gives(folder, questions, tmp_path, monkeypatch):
    file, barrier, local = questions(*ROWS), threading.Barrier(2, timeout=60), threading.local()
    score(folder, file, tmp_path / "one")
    monkeypatch.setattr(
        score_module,
        "this_process",
        lambda device: Process(index=local.index, count=2, device="cpu", wait=barrier.wait),
    )

    def work(index: int) -> None:
        local.index = index
        score(folder, file, tmp_path / "two")

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for name in ("answers.jsonl", "scores.jsonl", "summary.json", "summary-official.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_results_of_other_settings_are_not_mixed(folder, questions, tmp_path):
    file = questions(*ROWS)
    score(folder, file, tmp_path / "out")

    def other(image, q):
        return bright(image, q)

    other.passport = {"vqa": "other"}
    with pytest.raises(ValueError, match="results of other settings"):
        score(folder, file, tmp_path / "out", vqa=other)


def test_a_vqa_that_loses_answers_is_refused(folder, questions, tmp_path):
    with pytest.raises(ValueError, match="gave 0 answers to 1 questions"):
        score(folder, questions(*ROWS), tmp_path / "out", vqa=lambda image, q: [])


def test_the_passport_carries_every_setting(folder, questions, tmp_path):
    (folder / "generation.json").write_text(json.dumps({"num_inference_steps": 30, "prompts_rewritten": False}))
    passport = score(folder, questions(*ROWS), tmp_path / "out", config={"subject": "toy"}).passport
    assert passport["generation"]["num_inference_steps"] == 30 and passport["generation"]["subject"] == "toy"
    assert passport["thresholds"] == {"malformed": "no-parent", "yes": "normalised"}
    assert (passport["images_per_prompt"], passport["resolution"]) == (4, SIDE)
    assert len(passport["prompts_sha256"]) == 64
    low, high = passport["details"]["by_category_ci95"]["entity"]
    assert low <= 50 <= high
    assert read_json(tmp_path / "out" / "summary.json")["passport"] == json.loads(json.dumps(passport))


def test_scores_of_ones_own_are_not_replaced(folder, questions, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "summary-dsg.json").write_text("mine")
    with pytest.raises(InputError, match=r"holds summary-dsg\.json, but no settings\.json"):
        score(folder, questions(*ROWS), tmp_path / "out")
    assert (tmp_path / "out" / "summary-dsg.json").read_text() == "mine"
