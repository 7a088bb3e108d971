"""The transfer as a whole: what trains, what it leaves, resuming, several processes, failures."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import FluxPipeline
from safetensors.torch import load_file

from l2p import transfer
from l2p.conversion import copy_source_weights, load_delta
from l2p.corpora.shards import write_shard
from l2p.corpus import load_corpus
from l2p.detailer import DetailerConfig
from l2p.pixel_transformer import PixelTransformer2DModel
from l2p.sources import load_source
from l2p.trainable import make_accelerator, parameter_groups, trainable_parameters
from l2p.training import optimise, state
from l2p.training.shard import Placement
from l2p.transfer import TransferConfig, run_transfer
from tests.tiny import source

CONFIG = TransferConfig(
    patch_size=8,
    prediction="clean",
    output_scale=0.33,
    detailer=DetailerConfig(channels=(4, 8, 8, 16), upsampling="unfold"),
    num_trainable_blocks=1,
    num_train_steps=6,
    batch_size=4,
    learning_rate=3e-3,
    block_learning_rate=1e-3,
    num_warmup_steps=2,
    num_decay_steps=3,
    max_grad_norm=1.0,
    ema_decay=0.9,
    loss_weight_below=0.3,
    num_validation_images=4,
    validate_every=3,
    save_every=2,
    log_every=2,
    max_sequence_length=12,
)


def rows_of(out: Path) -> list[dict]:
    """The log without wall-clock times."""
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


@pytest.fixture(scope="session")
def finished(flux_folder: Path, corpus_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one unbroken transfer."""
    out = tmp_path_factory.mktemp("finished")
    run_transfer(flux_folder, corpus_folder, CONFIG, out, progress=False)
    return out


@pytest.mark.parametrize(
    ("trainable", "num_blocks", "expected"),
    [
        ("ends", 1, {"x_embedder", "transformer_blocks.0", "single_transformer_blocks.3", "detailer"}),
        ("released", 1, {"x_embedder", "transformer_blocks.0", "single_transformer_blocks.3", "detailer"}
         | {"time_text_embed", "context_embedder"}),
        ("head", 1, {"detailer"}),
        ("ends", 0, {"x_embedder", "detailer"}),
    ],
)  # fmt: skip
def test_only_the_ends_train(flux: FluxPipeline, trainable: str, num_blocks: int, expected: set[str]) -> None:
    model = PixelTransformer2DModel.from_source(flux.transformer, patch_size=8)
    names = trainable_parameters(model, replace(CONFIG, trainable=trainable, num_trainable_blocks=num_blocks))
    short = [name.removeprefix("transformer.") for name in names]
    heads = {next((part for part in expected if name.startswith(part + ".")), name) for name in short}
    assert heads == expected
    assert {n for n, p in model.named_parameters() if p.requires_grad} == set(names)


def test_all_and_more_blocks_than_there_are(flux: FluxPipeline) -> None:
    model = PixelTransformer2DModel.from_source(flux.transformer, patch_size=8)
    everything = trainable_parameters(model, replace(CONFIG, trainable="all"))
    assert len(everything) == len(list(model.parameters()))
    ends = trainable_parameters(model, replace(CONFIG, num_trainable_blocks=9))
    assert {n for n in everything if "blocks" in n} <= set(ends)


def test_new_layers_and_blocks_have_their_own_rates(flux: FluxPipeline) -> None:
    model = PixelTransformer2DModel.from_source(flux.transformer, patch_size=8)
    trained = trainable_parameters(model, CONFIG)
    new, blocks = parameter_groups(model, CONFIG)
    assert (new["base_lr"], blocks["base_lr"]) == (3e-3, 1e-3)
    assert {id(p) for p in [*new["params"], *blocks["params"]]} == {id(p) for p in trained.values()}
    assert {id(p) for p in blocks["params"]} == {id(p) for n, p in trained.items() if "blocks." in n}


def test_the_input_projection_may_have_a_rate_of_its_own(flux: FluxPipeline) -> None:
    model = PixelTransformer2DModel.from_source(flux.transformer, patch_size=8)
    trained = trainable_parameters(model, CONFIG)
    head, blocks, projection = parameter_groups(model, replace(CONFIG, projection_learning_rate=1e-4))
    assert (head["base_lr"], blocks["base_lr"], projection["base_lr"]) == (3e-3, 1e-3, 1e-4)
    assert {id(p) for p in projection["params"]} == {id(p) for p in model.input_projection().parameters()}
    assert {id(p) for p in head["params"]} == {id(p) for p in model.detailer.parameters()}
    assert sum(len(group["params"]) for group in (head, blocks, projection)) == len(trained)


def test_a_transfer_leaves_what_its_readers_expect(finished: Path, flux_folder: Path) -> None:
    summary, rows = json.loads((finished / "summary.json").read_text()), rows_of(finished)
    assert summary["num_train_steps"] == 6 and summary["batch_size"] == 4 and summary["seconds"] > 0
    assert summary["options"]["detailer"] == {"channels": [4, 8, 8, 16], "upsampling": "unfold"}
    assert summary["conversion"]["copied"] > 100 and "proj_out.weight" in summary["conversion"]["dropped"]
    losses = [row for row in rows if "loss" in row]
    assert [row["step"] for row in losses] == [2, 4, 6] and [row["num_images"] for row in losses] == [8, 16, 24]
    assert losses[-1]["loss"] == summary["final_loss"]
    validated = [row for row in rows if "validation_loss" in row]
    assert [row["step"] for row in validated] == [3, 6]
    assert list(validated[0]["validation_loss"]) == ["0.15", "0.3", "0.5", "0.7", "0.85", "0.97"]
    model = PixelTransformer2DModel.from_pretrained(finished / "model")
    assert sum(p.numel() for p in model.parameters()) == summary["num_parameters"]
    source = load_source(flux_folder)
    merged = load_delta(source, finished / "delta.safetensors").state_dict()
    assert all(torch.equal(merged[name], tensor) for name, tensor in model.state_dict().items())


def test_the_middle_stays_the_sources_byte_by_byte(finished: Path, flux_folder: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["frozen_sha256_before"] == summary["frozen_sha256_after"]
    source, model = load_source(flux_folder).transformer, PixelTransformer2DModel.from_pretrained(finished / "model")
    start = PixelTransformer2DModel.from_source(source, patch_size=8, detailer=CONFIG.detailer)
    copy_source_weights(start, source)
    before, after = start.state_dict(), model.state_dict()
    blocks = {n for n in after if "blocks." in n}
    changed = {n for n in blocks if not torch.equal(before[n], after[n])}
    assert {".".join(n.split(".")[1:3]) for n in changed} == {"transformer_blocks.0", "single_transformer_blocks.3"}
    assert set(load_file(finished / "delta.safetensors")) >= changed


def test_a_finished_transfer_is_returned_and_another_one_refused(
    finished: Path, flux_folder: Path, corpus_folder: Path
) -> None:
    before = (finished / "model/diffusion_pytorch_model.safetensors").stat().st_mtime_ns
    summary = run_transfer(flux_folder, corpus_folder, CONFIG, finished, progress=False)
    assert summary.num_train_steps == 6
    assert (finished / "model/diffusion_pytorch_model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"other options \(there, here\): {'learning_rate': \(0.003, 0.001\)}"):
        run_transfer(flux_folder, corpus_folder, replace(CONFIG, learning_rate=1e-3), finished, progress=False)


def test_stopped_and_resumed_it_ends_with_the_same_bytes(
    finished: Path, flux_folder: Path, corpus_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once by SIGTERM in step 3, once by a crash in step 5 (after the state of step 4)."""
    step = transfer._step

    def disturbed(run: transfer.Transfer, batch: list) -> float:
        if run.facts["step"] == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        if run.facts["step"] == 4:
            monkeypatch.setattr(transfer, "_step", step)
            raise RuntimeError("crash")
        return step(run, batch)

    monkeypatch.setattr(transfer, "_step", disturbed)
    with pytest.raises(KeyboardInterrupt, match="stopped at step 3"):
        run_transfer(flux_folder, corpus_folder, CONFIG, tmp_path, progress=False)
    with pytest.raises(RuntimeError, match="crash"):
        run_transfer(flux_folder, corpus_folder, CONFIG, tmp_path, progress=False)
    assert json.loads((tmp_path / "state/latest.json").read_text()) == {"state": "step-00000004"}
    run_transfer(flux_folder, corpus_folder, CONFIG, tmp_path, progress=False)
    for name in ("model/diffusion_pytorch_model.safetensors", "delta.safetensors"):
        assert (tmp_path / name).read_bytes() == (finished / name).read_bytes()
    assert rows_of(tmp_path) == rows_of(finished)


def in_shards(corpus: Path, folder: Path) -> Path:
    """A corpus's images in three tar shards."""
    rows = [json.loads(line) for line in (corpus / "metadata.jsonl").read_text().splitlines()]
    samples = [
        (f"{i:04d}", {".png": corpus / row["file_name"], ".txt": row["text"].encode()}) for i, row in enumerate(rows)
    ]
    folder.mkdir()
    for number, start in enumerate(range(0, 24, 9)):
        write_shard(folder / f"{number}.tar", samples[start : start + 9])
    return folder


def in_parquet(corpus: Path, folder: Path) -> Path:
    """The same in three parquet files, which are streamed."""
    datasets = pytest.importorskip("datasets")
    rows = [json.loads(line) for line in (corpus / "metadata.jsonl").read_text().splitlines()]
    pictures = [{"bytes": (corpus / row["file_name"]).read_bytes(), "path": None} for row in rows]
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    data = datasets.Dataset.from_dict({"image": pictures, "text": [row["text"] for row in rows]}, features=features)
    folder.mkdir()
    for number, start in enumerate(range(0, 24, 9)):
        data.select(range(start, min(start + 9, 24))).to_parquet(folder / f"{number}.parquet")
    return folder


@pytest.mark.parametrize("layout", [in_shards, in_parquet])
def test_from_shards_and_streams_a_crashed_transfer_ends_with_the_same_bytes(
    layout: Callable, flux_folder: Path, corpus_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The crash falls in the middle of the first epoch, after the state of step 4: 16 of 20 images are seen."""
    corpus, step = layout(corpus_folder, tmp_path / "corpus"), transfer._step
    run_transfer(flux_folder, corpus, CONFIG, tmp_path / "whole", progress=False)

    def crash(run: transfer.Transfer, batch: list) -> float:
        if run.facts["step"] == 4:
            raise RuntimeError("crash")
        return step(run, batch)

    monkeypatch.setattr(transfer, "_step", crash)
    with pytest.raises(RuntimeError, match="crash"):
        run_transfer(flux_folder, corpus, CONFIG, tmp_path / "out", progress=False)
    monkeypatch.setattr(transfer, "_step", step)
    run_transfer(flux_folder, corpus, CONFIG, tmp_path / "out", progress=False)
    assert (tmp_path / "out/delta.safetensors").read_bytes() == (tmp_path / "whole/delta.safetensors").read_bytes()
    assert rows_of(tmp_path / "out") == rows_of(tmp_path / "whole")


def test_accumulation_changes_nothing_but_rounding(
    finished: Path, flux_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    run_transfer(flux_folder, corpus_folder, replace(CONFIG, gradient_accumulation_steps=2), tmp_path, progress=False)
    assert_same_run(tmp_path, finished)


def test_a_row_torn_after_an_inner_brace_is_dropped(tmp_path: Path) -> None:
    log, rows = tmp_path / "log.jsonl", [{"step": 1, "loss": 2.0}, {"step": 2, "validation_loss": {"0.5": 1.0}}]
    whole = "".join(json.dumps(row) + "\n" for row in rows)
    log.write_text(whole + '{"step": 2, "alarms": {"0.5": 1.0}')
    state.cut_log(log, 2)
    assert log.read_text() == whole
    state.cut_log(log, 1)
    assert log.read_text() == json.dumps(rows[0]) + "\n"


SCRIPT = """
import sys
from dataclasses import replace
from l2p import transfer
sys.path.insert(0, {tests!r})
from test_transfer import CONFIG
transfer.run_transfer({source!r}, {corpus!r}, CONFIG, {out!r}, progress=False)
config = replace(CONFIG, log_every=6)
transfer.run_transfer({source!r}, {corpus!r}, config, {unbroken!r}, progress=False)
step = transfer._step
def crash(run, batch):
    if run.facts["step"] == 3:
        raise RuntimeError
    return step(run, batch)
transfer._step = crash
try:
    transfer.run_transfer({source!r}, {corpus!r}, config, {resumed!r}, progress=False)
except RuntimeError:
    pass
try:
    transfer.run_transfer({source!r}, {corpus!r}, CONFIG, {cut!r}, placement="shard", progress=False)
except RuntimeError:
    pass
transfer._step = step
transfer.run_transfer({source!r}, {corpus!r}, config, {resumed!r}, progress=False)
transfer.run_transfer({source!r}, {corpus!r}, CONFIG, {sharded!r}, placement="shard", progress=False)
"""


def test_two_processes_train_what_one_trains(
    finished: Path, flux_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    """As `accelerate launch --cpu --num_processes 2` starts them, without the time that the launcher takes.

    Then once more whole, and once more crashed after the state of step 2: each process goes on with its own losses.
    Then with the model cut over both (FSDP2), whole, and crashed after the state of step 2: one process goes on alone.
    """
    script, out = tmp_path / "run.py", tmp_path / "out"
    places = {"tests": str(Path(__file__).parent), "source": str(flux_folder), "corpus": str(corpus_folder)}
    outs = {"out": str(out), "unbroken": str(tmp_path / "unbroken"), "resumed": str(tmp_path / "resumed")}
    outs |= {name: str(tmp_path / name) for name in ("sharded", "cut")}
    script.write_text(SCRIPT.format(**outs, **places))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script)],
            env={**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    for rank in ranks:
        _, errors = rank.communicate(timeout=1200)
        assert rank.returncode == 0, errors[-3000:]
    assert_same_run(out, finished)
    assert rows_of(tmp_path / "resumed") == rows_of(tmp_path / "unbroken")
    deltas = [(tmp_path / name / "delta.safetensors").read_bytes() for name in ("resumed", "unbroken")]
    assert deltas[0] == deltas[1]
    assert_same_run(tmp_path / "sharded", finished)
    assert (
        not (tmp_path / "cut" / "summary.json").exists() and state.load_facts(tmp_path / "cut" / "state")["step"] == 2
    )
    run_transfer(flux_folder, corpus_folder, CONFIG, tmp_path / "cut", progress=False)
    assert_same_run(tmp_path / "cut", finished)


@pytest.fixture
def states_apart():
    """Precision and process group of these transfers are no other test's."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("placement", ["shard", "offload"])
@pytest.mark.parametrize("family", ["flux", "zimage"])
def test_frozen_bfloat16_and_trained_float32_are_cut_without_a_change(
    states_apart: None, family: str, placement: Placement, corpus_folder: Path, tmp_path: Path
) -> None:
    """Z-Image has parameters outside of all its blocks, and "released" trains some of them."""
    source(family).save_pretrained(tmp_path / family)
    config = replace(CONFIG, mixed_precision="bf16", gradient_checkpointing=True, trainable="released")
    for name, place in (("whole", "replicate"), ("cut", placement)):
        run_transfer(tmp_path / family, corpus_folder, config, tmp_path / name, placement=place, progress=False)
    assert_same_run(tmp_path / "cut", tmp_path / "whole")
    models = [load_file(tmp_path / name / "model/diffusion_pytorch_model.safetensors") for name in ("whole", "cut")]
    assert {name: (t.shape, t.dtype) for name, t in models[0].items()} == {
        name: (t.shape, t.dtype) for name, t in models[1].items()
    }


def assert_same_run(out: Path, reference: Path) -> None:
    """Same losses and same trained tensors, up to the order of float additions."""
    ours, theirs = load_file(out / "delta.safetensors"), load_file(reference / "delta.safetensors")
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, atol=2e-4, rtol=2e-3, msg=name)
    for row, other in zip(rows_of(out), rows_of(reference), strict=True):
        assert row.get("loss", 0) == pytest.approx(other.get("loss", 0), rel=1e-3)
        assert row.get("validation_loss", {}) == pytest.approx(other.get("validation_loss", {}), rel=1e-3)


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_state(
    flux_folder: Path, corpus_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = optimise.transfer_loss
    calls: list[int] = []

    def poisoned(*arguments: object) -> torch.Tensor:
        calls.append(1)
        return loss(*arguments) * (float("nan") if len(calls) == 4 else 1)

    monkeypatch.setattr(optimise, "transfer_loss", poisoned)
    with pytest.raises(FloatingPointError, match="not finite at step 4 .* last good state is kept in"):
        run_transfer(flux_folder, corpus_folder, CONFIG, tmp_path, progress=False)
    assert json.loads((tmp_path / "state/latest.json").read_text()) == {"state": "step-00000002"}
    assert all(t.isfinite().all() for t in load_file(tmp_path / "state/step-00000002/weights.safetensors").values())


def test_a_changed_source_is_refused_on_resuming(
    flux_folder: Path, corpus_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(run: transfer.Transfer) -> None:
        if run.facts["step"] == 3:
            raise RuntimeError("crash")

    monkeypatch.setattr(transfer, "_report", crash)
    with pytest.raises(RuntimeError):
        run_transfer(flux_folder, corpus_folder, CONFIG, tmp_path / "out", progress=False)
    source = load_source(flux_folder)
    with torch.no_grad():
        source.transformer.transformer_blocks[1].ff.net[2].bias.add_(1)
    source.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="are not those that the transfer in"):
        run_transfer(tmp_path / "other", corpus_folder, CONFIG, tmp_path / "out", progress=False)


def test_in_bfloat16_trained_tensors_stay_float32(flux_folder: Path, corpus_folder: Path, tmp_path: Path) -> None:
    config = replace(
        CONFIG, mixed_precision="bf16", gradient_checkpointing=True, num_train_steps=2, trainable="released"
    )
    make_accelerator(CONFIG)  # an earlier transfer of this process, in float32
    summary = run_transfer(flux_folder, corpus_folder, config, tmp_path, progress=False)
    assert summary.final_loss > 0 and summary.frozen_sha256_before == summary.frozen_sha256_after
    state, model = (
        load_file(tmp_path / "state/step-00000002/weights.safetensors"),
        load_file(tmp_path / "model/diffusion_pytorch_model.safetensors"),
    )
    assert {t.dtype for n, t in state.items() if n in load_file(tmp_path / "delta.safetensors")} == {torch.float32}
    assert {t.dtype for t in model.values()} == {torch.bfloat16}


def test_it_learns(flux_folder: Path, corpus_folder: Path, tmp_path: Path) -> None:
    """A head that paints nothing has the loss E[x_0^2] / sigma^2."""
    config = replace(CONFIG, num_train_steps=40, num_decay_steps=0, validate_every=40, save_every=40, log_every=40)
    run_transfer(flux_folder, corpus_folder, replace(config, input_projection="ridge"), tmp_path, progress=False)
    losses = rows_of(tmp_path)[-1]["validation_loss"]
    corpus = load_corpus(corpus_folder)
    power = corpus.images(range(len(corpus))).square().mean().item()
    assert all(losses[sigma] < 0.5 * power / float(sigma) ** 2 for sigma in losses)
