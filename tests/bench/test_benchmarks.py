"""The benchmarks as values: official layouts, scores as the packages' own functions give them, one more benchmark."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import bench.dpg.score as dpg
import bench.geneval.score as geneval
from bench.__main__ import main
from bench.benchmarks import BENCHMARKS, find_benchmark
from bench.dpg.questions import read_questions
from bench.geneval.prompts import OBJECT_NAMES, generate
from bench.judges import Judge, as_judge
from bench.records import (
    Benchmark,
    Detection,
    ImageSample,
    Prompt,
    ScoreSettings,
    Summary,
    iter_jsonl,
    read_json,
    read_jsonl,
    read_summary,
    write_json,
    write_jsonl,
)
from bench.runner import run_batches, this_process
from bench.statistics import bootstrap_ci

GENEVAL, DPG = BENCHMARKS["geneval"], BENCHMARKS["dpg"]
SIDE = 8


def geneval_rows(num_per_task: int) -> list[dict]:
    return generate(seed=1, num_per_task=num_per_task)


def write_table(path: Path, items: list[str]) -> None:
    """A question file, as a recipe's function writes it: two questions an item."""
    rows = ["item_id,text,proposition_id,dependency,tuple,question_natural_language"]
    rows += [
        f'{item},"a {item}, drawn",{k},{k - 1},entity - whole (x),Is there {item} {k}?'
        for item in items
        for k in (1, 2)
    ]
    path.write_text("\n".join(rows) + "\n")


HERE = "tests.bench.test_benchmarks"
SUITES = {  # what a recipe's suite says: a function and its arguments
    "geneval": (f"{HERE}:geneval_rows", {"num_per_task": 2}, 2),
    "dpg": (f"{HERE}:write_table", {"items": ["cat_1", "dog.2", "owl", "fox", "elk"]}, 4),
}


def draw(folder: Path, samples: list[ImageSample]) -> None:
    """Another grey for each image."""
    for number, sample in enumerate(samples):
        (folder / sample.path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (SIDE, SIDE), (10 + 7 * number % 200,) * 3).save(folder / sample.path)


@pytest.fixture(params=SUITES)
def drawn(request, tmp_path):
    """A benchmark, its finished folder of images, and the settings to score it with."""
    benchmark = BENCHMARKS[request.param]
    name, arguments, images_per_prompt = SUITES[request.param]
    prompts = benchmark.load_prompts(name, arguments)
    samples = benchmark.layout(prompts, images_per_prompt)
    draw(tmp_path / "images", samples)
    benchmark.finish(tmp_path / "images", prompts, name, arguments)
    settings = ScoreSettings(
        prompts=prompts,
        samples=samples,
        images_per_prompt=images_per_prompt,
        resolution=SIDE,
        subject="toy",
        judge_name="grey",
        watch_judge=False,
    )
    return benchmark, tmp_path / "images", settings


def detect(images):
    """One red object of every class in two thirds of the pictures, by their grey."""
    every = [Detection(label=name, box=(1, 1, 5, 5), score=0.95, color="red") for name in OBJECT_NAMES]
    return [every if image.getpixel((0, 0))[0] % 3 else [] for image in images]


def answer(image, questions):
    return ["yes" if (image.getpixel((0, 0))[0] + k) % 3 else "no" for k in range(len(questions))]


def test_geneval_lies_in_its_official_folders():
    prompts = GENEVAL.load_prompts(*SUITES["geneval"][:2])
    assert [prompt.id for prompt in prompts[:3]] == ["00000", "00001", "00002"]
    assert [prompt.text for prompt in prompts] == [row["prompt"] for row in geneval_rows(2)]
    samples = GENEVAL.layout(prompts, 2)
    assert [sample.path.as_posix() for sample in samples[:3]] == [
        *("00000/samples/0000.png", "00000/samples/0001.png", "00001/samples/0000.png")
    ]
    assert len(samples) == 2 * len(prompts) == 24
    assert {sample.seed for sample in samples} == {-1}


def test_dpg_bench_lies_in_tiles_of_four():
    prompts = DPG.load_prompts(*SUITES["dpg"][:2])
    assert [(prompt.id, prompt.text) for prompt in prompts[:2]] == [
        ("cat_1", "a cat_1, drawn"),
        ("dog.2", "a dog.2, drawn"),
    ]
    samples = DPG.layout(prompts, 4)
    assert [(s.prompt_id, s.index, s.path.as_posix()) for s in samples[3:5]] == [
        *(("cat_1", 3, "tiles/cat_1_3.png"), ("dog.2", 0, "tiles/dog.2_0.png"))
    ]
    with pytest.raises(ValueError, match="have 4 tiles: images_per_prompt cannot be 3"):
        DPG.layout(prompts, 3)


def test_prompts_may_be_a_file_and_must_be_there(tmp_path):
    rows = geneval_rows(2)
    write_jsonl(tmp_path / "suite.jsonl", rows)
    assert [p.spec for p in GENEVAL.load_prompts(str(tmp_path / "suite.jsonl"), {})] == rows
    write_table(tmp_path / "table.csv", ["owl"])
    assert [prompt.id for prompt in DPG.load_prompts(str(tmp_path / "table.csv"), {})] == ["owl"]
    for benchmark in BENCHMARKS.values():
        with pytest.raises(FileNotFoundError, match="none"):
            benchmark.load_prompts(str(tmp_path / "none"), {})
        with pytest.raises(ValueError, match="has no function 'no_such'"):
            benchmark.load_prompts(f"{HERE}:no_such", {})


def test_finished_folders_hold_what_the_published_scripts_read(drawn):
    benchmark, images, settings = drawn
    files = {path.relative_to(images).as_posix() for path in images.rglob("*") if path.is_file()}
    drawn_files = {sample.path.as_posix() for sample in settings.samples}
    assert drawn_files < files
    if benchmark is GENEVAL:
        assert files - drawn_files == {
            "evaluation_metadata.jsonl",
            *(f"{p.id}/metadata.jsonl" for p in settings.prompts),
        }
        assert read_jsonl(images / "00003/metadata.jsonl") == [settings.prompts[3].spec]
        return
    assert files - drawn_files == {"questions.csv", *(f"{prompt.id}.png" for prompt in settings.prompts)}
    assert list(read_questions(images / "questions.csv").items) == SUITES["dpg"][1]["items"]
    grid = np.asarray(Image.open(images / "dog.2.png"))
    tiles = [np.asarray(Image.open(images / f"tiles/dog.2_{k}.png")) for k in range(4)]
    assert len({tile[0, 0, 0] for tile in tiles}) == 4
    assert (grid == np.block([[[tiles[0]], [tiles[1]]], [[tiles[2]], [tiles[3]]]])).all()


def test_scores_are_what_the_packages_own_functions_give(drawn, tmp_path):
    benchmark, images, settings = drawn
    if benchmark is GENEVAL:
        entries, config = (
            [prompt.spec for prompt in settings.prompts],
            geneval.ScoreConfig(images_per_prompt=2, batch_size=32, subject="toy", watch_detector=False),
        )
        geneval.score_folder(images, detect, tmp_path / "own", entries=entries, detector_name="grey", config=config)
    else:
        questions, config = images / "questions.csv", dpg.ScoreConfig(subject="toy")
        dpg.score_folder(images, questions, answer, tmp_path / "own", resolution=SIDE, vqa_name="grey", config=config)
    judge = {"geneval": detect, "dpg": answer}[benchmark.name]
    summary = benchmark.score(images, judge, tmp_path / "out", settings)
    written = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert written == {path.name: path.read_bytes() for path in (tmp_path / "own").iterdir()}
    assert {"scores.jsonl", "summary.json", benchmark.findings} <= written.keys()
    assert summary == read_summary(tmp_path / "out" / "summary.json") and summary.benchmark == benchmark.name
    # rows, read as the value says, give the summary's own figures
    left_out = summary.passport.get("left_out", ())
    rows = [row for row in read_jsonl(tmp_path / "out" / "scores.jsonl") if row["prompt_id"] not in left_out]
    values = [benchmark.scale * row["value"] for row in rows]
    units = [benchmark.resampled(row, summary.passport) for row in rows]
    bounds = (0.0, benchmark.scale)
    estimate = bootstrap_ci([benchmark.category(row) for row in rows], units, values, bounds=bounds)
    assert [estimate.value, estimate.low, estimate.high] == pytest.approx([summary.overall, *summary.overall_ci95])
    assert estimate.low < estimate.high and len(set(units)) > 1


def test_what_an_interval_resamples():
    row = {"prompt_id": "00001", "index": 2, "category": "colors", "text": "a red cat"}
    assert GENEVAL.resampled(row, {}) == "a red cat" and GENEVAL.resampled_name({}) == "prompts"
    images = {"resampled": "images"}
    assert GENEVAL.resampled(row, images) == "00001/2" and GENEVAL.resampled_name(images) == "images"
    assert DPG.resampled(row, {}) == "00001" and DPG.resampled_name({}) == "items"


def test_a_judge_tells_of_itself_and_a_plain_function_need_not():
    plain = as_judge(detect, {"name": "grey"})
    assert (plain.passport, plain.labels, plain.colors) == ({"name": "grey"}, None, None)
    whole = Judge(ask=detect, passport={"name": "own"}, labels=("cat",))
    assert as_judge(whole, {"name": "grey"}) is whole
    image = Image.new("RGB", (2, 2))
    assert whole([image]) == plain([image]) == detect([image])

    class Own:
        passport, labels = {"name": "object"}, ["cat"]

        def __call__(self, images):
            return detect(images)

    assert as_judge(Own(), {}).passport == {"name": "object"} and as_judge(Own(), {}).labels == ("cat",)


# One more benchmark, as FID would be: the images' features on disk, and a number of the whole set made from them.


def load_tones(name: str, arguments) -> list[Prompt]:
    return [Prompt(id=f"p{k}", text=row["text"], category="tone", spec=row) for k, row in enumerate(read_jsonl(name))]


def lay_flat(prompts, images_per_prompt: int) -> list[ImageSample]:
    return [
        ImageSample(prompt_id=prompt.id, index=k, seed=-1, path=Path(f"{prompt.id}-{k}.png"))
        for prompt in prompts
        for k in range(images_per_prompt)
    ]


def write_reference(folder: Path, prompts, name: str, arguments) -> None:
    write_json(folder / "reference.json", [prompt.spec["tone"] for prompt in prompts])


def tone_distance(directory: Path, reference: list[float]) -> float:
    """The distance of the set's mean feature from the reference's: a pure function of the features."""
    return abs(float(np.mean([row["tone"] for row in iter_jsonl(directory / "tones.jsonl")]) - np.mean(reference)))


def score_tones(images: Path, judge, out: Path, settings: ScoreSettings) -> Summary:
    samples = [replace(sample, path=images / sample.path) for sample in settings.samples]
    missing = [sample.path.name for sample in samples if not sample.path.is_file()]
    if missing:
        raise FileNotFoundError(f"no {', '.join(missing)}")

    def work(batch):
        tones = judge([Image.open(sample.path) for sample in batch])
        return [
            {"prompt_id": s.prompt_id, "index": s.index, "sha256": s.path.name, "tone": tone}
            for s, tone in zip(batch, tones, strict=True)
        ]

    run_batches(
        [samples[k : k + 2] for k in range(0, len(samples), 2)], work, out, name="tones", process=this_process("cpu")
    )
    distance = tone_distance(out, read_json(images / "reference.json"))
    summary = Summary(
        benchmark="tone",
        version="1",
        variant="mean",
        subject=settings.subject,
        overall=distance,
        overall_ci95=(distance, distance),
        by_category={},
        num_expected=len(samples),
        num_scored=len(samples),
        passport={"models": {"judge": dict(as_judge(judge, {"name": settings.judge_name}).passport)}},
    )
    write_json(out / "summary.json", summary)
    return summary


def rescore_tones(directory: Path, out: Path | None, options) -> None:
    saved = read_summary(directory / "summary.json")
    write_json((out or directory) / "summary.json", replace(saved, overall=tone_distance(directory, [0.0])))


def tones():
    """A loader of a feature extractor."""
    return lambda images: [float(np.asarray(image).mean()) for image in images]


TONE = Benchmark(
    name="tone",
    title="Tone distance",
    unit="grey levels",
    decimals=2,
    scale=4.0,
    higher_is_better=False,
    category=lambda row: "all",
    resampled=lambda row, passport: row["prompt_id"],
    resampled_name=lambda passport: "prompts",
    load_prompts=load_tones,
    layout=lay_flat,
    finish=write_reference,
    load_judge=GENEVAL.load_judge,
    score=score_tones,
    findings="tones.jsonl",
    rescore=rescore_tones,
)


@pytest.fixture
def tone(monkeypatch):
    """The benchmark in its one dict line."""
    monkeypatch.setitem(BENCHMARKS, "tone", TONE)
    return find_benchmark("tone")


def test_a_benchmark_is_added_by_one_line(tone, tmp_path, capsys):
    suite, images, out = tmp_path / "tones.jsonl", tmp_path / "images", tmp_path / "scores"
    write_jsonl(suite, [{"text": "dark", "tone": 20}, {"text": "light", "tone": 100}])
    prompts = tone.load_prompts(str(suite), {})
    samples = tone.layout(prompts, 2)
    draw(images, samples)  # greys 10, 17, 24, 31
    tone.finish(images, prompts, str(suite), {})
    settings = ScoreSettings(
        prompts=prompts, samples=samples, images_per_prompt=2, resolution=SIDE, subject="toy", judge_name="tones"
    )
    summary = tone.score(images, tone.load_judge(f"{HERE}:tones"), out, settings)
    assert (summary.overall, summary.num_scored) == (39.5, 4)
    assert read_summary(out / "summary.json") == summary
    assert main(["rescore", str(out)]) == 0
    assert read_summary(tmp_path / "scores-rescored" / "summary.json").overall == 20.5
    assert read_summary(out / "summary.json").overall == 39.5
    assert main(["rescore", str(out), "--variant", "dsg"]) == 2
    assert "rescore of Tone distance takes no options" in capsys.readouterr().err
    assert main(["compare", str(out), str(out)]) == 2
    assert "no scores.jsonl to pair" in capsys.readouterr().err
    (images / "p1-1.png").unlink()
    with pytest.raises(FileNotFoundError, match="p1-1.png"):
        tone.score(images, tones(), out, settings)


def test_a_benchmark_may_score_the_images_of_another(tone, drawn, tmp_path):
    _, images, settings = drawn
    write_json(images / "reference.json", [0.0])
    summary = tone.score(images, tones(), tmp_path / "tone", settings)
    greys = [np.asarray(Image.open(images / sample.path))[0, 0, 0] for sample in settings.samples]
    assert summary.num_scored == len(greys) > 10
    assert summary.overall == pytest.approx(np.mean(greys))


def test_lower_may_be_better(tone, tmp_path, capsys):
    for name, value in (("a", 3.0), ("b", 2.0)):
        rows = [{"prompt_id": f"p{k}", "index": 0, "category": "all", "value": (value + k / 99) / 4} for k in range(99)]
        write_jsonl(tmp_path / name / "scores.jsonl", rows)
        summary = Summary(
            benchmark="tone",
            version="1",
            variant="mean",
            subject=name,
            overall=value + 49 / 99,
            overall_ci95=(0.0, 9.0),
            by_category={},
            num_expected=99,
            num_scored=99,
            passport={},
        )
        write_json(tmp_path / name / "summary.json", summary)
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert "B - A = -1.0000" in (shown := capsys.readouterr().out) and "B is better" in shown


def test_an_unknown_benchmark_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown benchmark 'fdi'; known: geneval, dpg, fid, fid-patch"):
        find_benchmark("fdi")
