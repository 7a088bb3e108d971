"""A source of every family is built, read with, trained a little, saved, and drawn with by its own pipeline class."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from typer.testing import CliRunner

from bench.records import read_json, read_jsonl
from l2p.architectures import ARCHITECTURES, encode_prompt, get_architecture, source_velocity
from l2p.ending import run_command
from l2p.flow import noisy_image
from l2p.sources import load_source
from reproduce.draw import draw_source
from reproduce.miniature import check, pretrain, reading, source_training
from reproduce.miniature.autoencoder import latent_statistics, train_autoencoder
from reproduce.miniature.detector import to_tensor
from reproduce.miniature.pool import GRID, build_pool, told_rows, told_scenes
from reproduce.miniature.prompts import phrase_labels
from reproduce.miniature.reading import Reader, ReadingConfig, text_encoders
from reproduce.miniature.render import render_batch
from reproduce.miniature.scenes import RESOLUTION, mixed_scenes
from reproduce.miniature.source_training import SourceConfig, SourceTraining, TrainingState, batch_of, train_step
from reproduce.miniature.sources import SOURCES, WEIGHTS, build, miniature_source
from reproduce.recipes import Sampler
from tests.ended import ended

torch.set_num_threads(1)
TEXTS = ["a red star", "two blue rings . a small star . the background is dark ."]
SMALL = SourceConfig(
    num_steps=6,
    batch_size=8,
    num_scenes=64,
    warmup_steps=2,
    save_every=2,
    log_every=2,
    shift=1.0,
    dense_probability=0.5,
)
READING = ReadingConfig(num_steps=4, batch_size=8, warmup_steps=2, save_every=2, log_every=2)


@pytest.fixture(scope="module", params=SOURCES)
def family(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def source(family):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(family)


def pool_of(family, source, num_scenes=64):
    return build_pool(
        get_architecture(family),
        source,
        np.random.default_rng(0),
        num_scenes=num_scenes,
        shares="bound",
        layout="open",
        max_sequence_length=miniature_source(family).max_sequence_length,
    )


def test_every_family_has_a_miniature_of_the_same_size():
    assert list(SOURCES) == list(ARCHITECTURES)
    with pytest.raises(ValueError, match="sdxl.*flux, sd3"):
        build("sdxl")


def test_a_source_is_loaded_and_draws_by_its_own_class(family, source, tmp_path):
    source.save_pretrained(tmp_path)
    loaded = load_source(tmp_path)
    architecture, own = get_architecture(family), miniature_source(family)
    assert type(loaded).__name__ == architecture.pipeline_class and loaded.transformer.dtype == torch.float32
    loaded.set_progress_bar_config(disable=True)
    sampler = Sampler(
        num_inference_steps=2,
        guidance_scale=own.guidance_scale,
        max_sequence_length=own.max_sequence_length,
        batch_size=2,
    )
    images = draw_source(loaded, TEXTS, [1, 2], sampler, RESOLUTION)
    assert [image.size for image in images] == [(RESOLUTION, RESOLUTION)] * 2
    assert np.asarray(images[0]).std() > 1 and np.asarray(images[0]).tobytes() != np.asarray(images[1]).tobytes()
    assert sum(p.numel() for p in loaded.transformer.parameters()) < 4e6
    assert len(source_training.blocks_of(architecture, loaded.transformer)) == 6


def test_a_prompts_first_word_is_where_the_family_says(family, source):
    """Another second word changes its own token first, where an encoder reads forwards, or most, where both ways."""
    own = miniature_source(family)
    one, other = (
        encode_prompt(source, family, [f"red {word}"], own.max_sequence_length)["prompt_embeds"][0]
        for word in ("star", "ring")
    )
    change = (one - other).norm(dim=-1)
    bounds = [*own.prompt_starts, len(change)]
    for start, end in zip(bounds, bounds[1:], strict=False):
        own_tokens = change[start:end]
        place = own_tokens.argmax() if own_tokens.all() else own_tokens.nonzero()[0]
        assert int(place) == 1, change
    assert not change[: bounds[0]].any()


def test_the_pool_holds_what_the_family_encodes(family, source):
    pool = pool_of(family, source)
    assert len(pool["latents"]) == len(pool["labels"]) == 64 and pool["labels"].shape[1:] == (2, GRID * GRID)
    limit = miniature_source(family).max_sequence_length
    texts = ["", pool_texts(family, source)[0]]
    for row, text in enumerate(texts):
        alone = encode_prompt(source, family, [text], limit)
        cached = told_rows(pool, torch.tensor([row]))
        assert cached.keys() == alone.keys()
        for name, tensor in alone.items():
            torch.testing.assert_close(cached[name].float(), tensor.float(), atol=2e-3, rtol=2e-3)


def pool_texts(family, source):
    """The distinct prompts of `pool_of`, in the order of its rows after the empty one."""
    told = told_scenes(np.random.default_rng(0), "bound", "open", 64)
    return list(dict.fromkeys(text for _, caption, dense in told for text in (caption, dense)))


def test_the_reader_gets_better_and_reaches_every_encoder(family):
    torch.manual_seed(0)
    source, config = build(family), ReadingConfig(num_steps=25, batch_size=8, warmup_steps=5)
    reader = Reader(get_architecture(family), source, miniature_source(family))
    optimizer = torch.optim.AdamW(reader.parameters(), 2e-3)
    losses = []
    for step in range(config.num_steps):
        loss, _ = reader(reading.texts_of(config, step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.85 * np.mean(losses[:5]), losses
    for name, encoder in text_encoders(source).items():
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in encoder.parameters()), name


def test_word_labels_ask_only_about_words():
    labels = reading.word_labels(TEXTS)
    assert (labels[0, 3:] == -100).all() and (labels[0, :3] >= 0).all()
    assert labels[0, :3].tolist() == phrase_labels(TEXTS[0])[:3].tolist()
    said = reading.named(labels)
    assert said.sum(1).tolist() == [2, 3]  # star, red; ring, star, blue


def test_the_middle_blocks_tokens_are_the_images(family, source):
    """They change with the picture's own patch: at one sigma the changed patch's token changes most."""
    architecture = get_architecture(family)
    module, pool = SourceTraining(architecture, source.transformer), pool_of(family, source)
    seen = []
    for changed in (False, True):
        clean, noise, sigma, prompt, labels = batch_of(pool, replace(SMALL, batch_size=1), 0, 0)
        patch = clean.shape[-1] // GRID
        noise = noise.index_fill(2, torch.arange(4 * patch, 5 * patch), 3.0) if changed else noise
        with torch.no_grad():
            module(clean, noise, torch.ones(1), prompt, labels)
        seen.append(module._middle[0])
    change = (seen[0] - seen[1]).norm(dim=-1).reshape(GRID, GRID)
    assert set(change.flatten().topk(GRID).indices.tolist()) == set(range(4 * GRID, 5 * GRID))


def test_the_losses_fall(family):
    torch.manual_seed(0)
    source, architecture = build(family), get_architecture(family)
    source_training.zero_modulation(source.transformer)
    config = replace(SMALL, num_steps=30, batch_size=8, warmup_steps=5)
    pool = pool_of(family, source)
    pool["latents"] = pool["latents"] / pool["latents"].float().std()  # an untrained VAE's are anything
    state = TrainingState.begin(architecture, source.transformer, config, "cpu")
    rows = []
    for step in range(config.num_steps):
        batch = batch_of(pool, config, step, 0)
        with torch.no_grad():
            velocity, semantic = state.module(*batch)
        rows.append((velocity.item(), semantic.item()))
        train_step(state.module, state, config, batch)
    first, last = np.mean(rows[:5], 0), np.mean(rows[-5:], 0)
    assert (last < 0.9 * first).all(), (first, last)


def test_a_student_learns_what_its_teacher_draws_with_guidance(family):
    """The guided velocity is the teacher's two, combined; without a prompt, or at guidance 1, it is the plain one."""
    torch.manual_seed(0)
    source, architecture = build(family), get_architecture(family)
    pool = pool_of(family, source)
    batch = batch_of(pool, replace(SMALL, batch_size=4, null_probability=0.0), 0, 0)
    clean, noise, sigma, prompt, _ = batch
    empty = told_rows(pool, torch.zeros(4).long())
    teachers = [
        source_training.Teacher(
            architecture=architecture,
            transformer=source.transformer,
            guidance=guidance,
            unprompted=told_rows(pool, torch.zeros(1).long()),
        )
        for guidance in (1.0, 3.0)
    ]
    plain, guided = (teacher.velocity(*batch) for teacher in teachers)
    noisy = noisy_image(clean, noise, sigma)
    with torch.no_grad():
        with_prompt, without = (
            source_velocity(architecture, source.transformer, noisy, sigma, told) for told in (prompt, empty)
        )
    torch.testing.assert_close(plain, with_prompt, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(guided, 3 * with_prompt - 2 * without, atol=1e-4, rtol=1e-4)
    assert not torch.equal(with_prompt, without)
    torch.testing.assert_close(teachers[1].velocity(clean, noise, sigma, empty, None), without, atol=1e-4, rtol=1e-4)
    loss, _ = SourceTraining(architecture, source.transformer)(*batch, guided)
    torch.testing.assert_close(loss, (with_prompt - guided).square().mean(), atol=1e-5, rtol=1e-4)


def test_a_student_goes_on_to_the_same_bytes_and_wants_a_teacher(tmp_path):
    config = replace(SMALL, guidance=3.0)
    with pytest.raises(ValueError, match="--guidance 3 is what a trained source draws with: give --start"):
        pretrain.pretrain("flux2", READING, config, tmp_path / "none", None, None)
    pretrain.pretrain("flux", READING, SMALL, tmp_path / "teacher", None, None)
    teacher = tmp_path / "teacher" / "pipeline"

    whole, broken = (trained(tmp_path / str(stop), config, start=teacher, stop=stop) for stop in (None, 3))
    assert whole == broken and len(whole) == 4


def trained(folder, config=SMALL, start=None, stop=None):
    """The weights by file that a training of FLUX's miniature ends with, interrupted after `stop` steps or never."""
    train = partial(pretrain.pretrain, "flux", READING, config, folder, None, start)
    if stop:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(source_training, "train_step", dying(stop))
            with pytest.raises(KeyboardInterrupt):
                train()
    train()
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in (folder / "pipeline").rglob("*.safetensors")}


def dying(stop):
    """A training's step that is interrupted after some."""
    left = iter(range(stop))

    def step(*arguments):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return train_step(*arguments)

    return step


def test_a_killed_training_ends_with_the_same_bytes_and_refuses_other_options(tmp_path):
    whole, broken = trained(tmp_path / "whole"), trained(tmp_path / "broken", stop=3)
    assert whole == broken and len(whole) == 4
    assert [row["step"] for row in read_jsonl(tmp_path / "whole" / "log.jsonl")] == [2, 4, 6]
    with pytest.raises(ValueError, match=r"begun with other options: source.layout 'said', now 'open'.*--out"):
        trained(tmp_path / "whole", config=replace(SMALL, layout="open"))
    assert json.loads((tmp_path / "whole" / "options.json").read_text())["source"]["layout"] == "said"


@pytest.mark.parametrize("family", ["flux", "qwenimage", "flux2"])
def test_latents_are_standardised_as_the_familys_pipeline_normalises(family):
    """After training, what `encode_latents` gives has mean 0 and deviation 1 a channel, and decodes back the same."""
    torch.manual_seed(0)
    source, architecture = build(family), get_architecture(family)
    train_autoencoder(source.vae, RESOLUTION, 2, batch_size=2, log=lambda line: None)
    rng = np.random.default_rng(5)
    latents = architecture.encode_latents(source, to_tensor(render_batch(mixed_scenes(rng, 256), RESOLUTION)))
    assert latents.mean((0, 2, 3)).abs().max() < 0.2
    assert (latents.std((0, 2, 3)) - 1).abs().max() < 0.2
    assert latent_statistics(source.vae, RESOLUTION, rng)[0].shape == (latents.shape[1],)


def test_flux2s_vae_takes_up_fluxs_weights_and_draws_the_same(tmp_path):
    out = tmp_path / "vae"
    arguments = ["vae", "--family", "flux2", "--start", str(WEIGHTS / "flux" / "vae"), "--num-steps", "0"]
    assert CliRunner().invoke(pretrain.app, [*arguments, "--out", str(out)]).exit_code == 0
    pictures = to_tensor(render_batch(mixed_scenes(np.random.default_rng(6), 2), RESOLUTION))
    seen = []
    for family, folder in (("flux", WEIGHTS / "flux" / "vae"), ("flux2", out)):
        source, architecture = build(family), get_architecture(family)
        source.register_modules(vae=pretrain.trained_vae(family, folder)[0])
        with torch.no_grad():
            latents = architecture.encode_latents(source, pictures)
            seen.append(architecture.decode_latents(source, latents))
    assert latents.shape == (2, 32, 6, 6) and 0.5 < latents.std() < 1.5
    torch.testing.assert_close(seen[1], seen[0], atol=1e-4, rtol=0)


def test_a_vae_of_other_layers_is_refused(tmp_path):
    start = ["vae", "--family", "qwenimage", "--num-steps", "0", "--out", tmp_path / "out", "--start"]
    refused = ended(partial(run_command, pretrain.app), *start, WEIGHTS / "flux" / "vae")
    assert refused.status == 2 and "no VAE of AutoencoderKLQwenImage's layers: decoder" in refused.output
    assert ended(partial(run_command, pretrain.app), *start, tmp_path).status == 2
    assert not (tmp_path / "out").exists()


def test_a_vae_that_is_not_there_is_asked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match="AutoencoderKLQwenImage.*pretrain vae --family qwenimage"):
        pretrain.trained_vae("qwenimage", tmp_path)
    assert pretrain.trained_vae("sd3", None)[1] == pretrain.trained_vae("flux", None)[1]


def test_checks_run_for_any_family(family, source, tmp_path):
    source.save_pretrained(tmp_path / f"{family}-open")
    for command in ("source", "vae", "robustness"):
        arguments = [command, "--family", family, "--layout", "open", "--weights", str(tmp_path), "--num-per-task", "1"]
        arguments += ["--json", str(tmp_path / "figures.json")] + (
            [] if command == "vae" else ["--num-inference-steps", "1"]
        )
        result = CliRunner().invoke(check.app, arguments)
        assert result.exit_code == 0, result.output
        assert read_json(tmp_path / "figures.json")["n"] == (18 if command == "robustness" else 6)


def test_checks_name_what_there_is(tmp_path):
    unknown = ended(partial(run_command, check.app), "source", "--family", "sdxl")
    assert unknown.status == 2 and "flux, sd3" in unknown.output
    missing = ended(partial(run_command, check.app), "vae", "--family", "flux", "--weights", tmp_path)
    assert missing.status == 2 and "there: none" in missing.output


def test_what_is_shipped_is_half_as_large_and_loaded_in_float32(family, source, tmp_path):
    source.save_pretrained(tmp_path / "run" / "pipeline")
    assert CliRunner().invoke(pretrain.app, ["ship", str(tmp_path / "run"), str(tmp_path / "out")]).exit_code == 0
    whole, half = (
        sum(path.stat().st_size for path in (tmp_path / folder).rglob("*.safetensors")) for folder in ("run", "out")
    )
    assert half < 0.52 * whole and half < 12e6
    DiffusionPipeline.from_pretrained(tmp_path / "out")(prompt=TEXTS[0], height=48, width=48, num_inference_steps=1)
    loaded = load_source(tmp_path / "out")
    parts = [part for part in loaded.components.values() if isinstance(part, torch.nn.Module)]
    assert {p.dtype for part in parts for p in part.parameters()} == {torch.float32}
    for mine, theirs in zip(source.transformer.parameters(), loaded.transformer.parameters(), strict=True):
        assert torch.equal(mine.bfloat16().float(), theirs)


def test_a_part_that_two_shipped_sources_hold_is_one_file(tmp_path):
    sd3, shipped = build("sd3"), tmp_path / "weights"
    sd3.register_modules(vae=pretrain.trained_vae("sd3", None)[0])
    sd3.save_pretrained(tmp_path / "run" / "pipeline")
    part = Path("vae") / "diffusion_pytorch_model.safetensors"
    (shipped / "flux" / "vae").mkdir(parents=True)
    shutil.copy(tmp_path / "run" / "pipeline" / part, shipped / "flux" / part)  # as trained, in float32
    for out in ("sd3", "sd3-open"):
        assert CliRunner().invoke(pretrain.app, ["ship", str(tmp_path / "run"), str(shipped / out)]).exit_code == 0
        assert (shipped / out / part).is_symlink()
    links = {path.relative_to(shipped).parts[0] for path in shipped.rglob("*.safetensors") if path.is_symlink()}
    assert links == {"sd3", "sd3-open"} and not (shipped / "sd3" / "transformer" / part.name).is_symlink()
    shutil.move(shipped, tmp_path / "elsewhere")
    loaded = load_source(tmp_path / "elsewhere" / "sd3-open")
    assert all(map(torch.equal, sd3.vae.parameters(), loaded.vae.parameters()))
