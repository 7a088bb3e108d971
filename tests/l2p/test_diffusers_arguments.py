"""What diffusers' users pass to a pipeline: each argument does what its name says, for every family."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.callbacks import PipelineCallback

from l2p.architectures import ARCHITECTURES
from l2p.pipeline import L2PPipeline
from l2p.sampling import draw_noise
from tests.l2p.pixels import LENGTH, PROMPTS, close, draw, generators, moved, pixels

UNMASKED = [name for name, family in ARCHITECTURES.items() if "mask" not in family.prompt_tensors]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def pipeline(request: pytest.FixtureRequest) -> L2PPipeline:
    return pixels(request.param)


@pytest.fixture(scope="module")
def flux() -> L2PPipeline:
    return pixels("flux")


def test_all_that_goes_in_moves_the_image(pipeline: L2PPipeline) -> None:
    """What the other tests compare can differ: each input moves the image by 100 times their tolerance."""
    image = draw(pipeline)
    others = {
        "prompt": draw(pipeline, tuple(PROMPTS[1::-1])),
        "negative prompt": draw(pipeline, negative_prompt="two blue circle and a red star"),
        "guidance": draw(pipeline, guidance_scale=4.0),
        "noise": draw(pipeline, seeds=(3, 4)),
        "levels": draw(pipeline, sigmas=[1.0, 0.9, 0.1]),
    }
    assert {name: moved(image, other) for name, other in others.items() if moved(image, other) < 0.03} == {}


def test_every_encoded_tensor_tells_prompts_apart_and_moves_the_image(pipeline: L2PPipeline) -> None:
    embeds, others = (pipeline.encode_prompt(prompts, LENGTH) for prompts in (PROMPTS[:2], PROMPTS[1::-1]))
    image = draw(pipeline, prompt_embeds=embeds)
    for name in embeds.keys() - {"mask"}:
        assert moved(image, draw(pipeline, prompt_embeds={**embeds, name: others[name]})) > 0.01, name


def test_guidance_of_at_most_one_is_off_and_the_prompt_still_counts(pipeline: L2PPipeline) -> None:
    off = draw(pipeline, guidance_scale=1.0)
    for scale in (0.0, 0.5, -1.0):
        assert torch.equal(draw(pipeline, guidance_scale=scale), off)
    assert moved(off, draw(pipeline, tuple(PROMPTS[1::-1]), guidance_scale=0.0)) > 0.01


def test_encoded_prompts_take_their_negative_at_their_own_length(pipeline: L2PPipeline) -> None:
    """`max_sequence_length` is left at its default, 512: the embeds' length counts."""
    embeds = pipeline.encode_prompt(PROMPTS[:2], 24)
    plain = draw(pipeline, max_sequence_length=24)
    longest = {"max_sequence_length": 64 if "mask" in embeds else 512}
    close(draw(pipeline, prompt_embeds=embeds, **longest), plain)
    both = draw(pipeline, prompt_embeds=embeds, negative_prompt_embeds=pipeline.encode_prompt("", 24), **longest)
    close(both, plain)


@pytest.mark.parametrize("family", UNMASKED)
def test_encoded_prompts_of_two_lengths_are_refused_where_no_mask_tells_them_apart(family: str) -> None:
    pipeline = pixels(family)
    embeds, negative = pipeline.encode_prompt(PROMPTS[:2], 24), pipeline.encode_prompt("", 32)
    with pytest.raises(ValueError, match="no mask, so encode all with the same max_sequence_length"):
        draw(pipeline, prompt_embeds=embeds, negative_prompt_embeds=negative)


def test_encoded_prompts_of_two_lengths_draw_what_each_draws_alone(pipeline: L2PPipeline) -> None:
    prompts = ["a", "a red star and two blue circle and a star"]
    together = draw(pipeline, prompt_embeds=pipeline.encode_prompt(prompts, LENGTH))
    for i, prompt in enumerate(prompts):
        close(draw(pipeline, prompt_embeds=pipeline.encode_prompt(prompt, LENGTH), seeds=(i + 1,)), together[i : i + 1])
    assert moved(together[:1], draw(pipeline, prompts[1], seeds=(1,))) > 0.03


def test_no_negative_prompt_is_an_empty_one(pipeline: L2PPipeline) -> None:
    assert torch.equal(draw(pipeline, negative_prompt=None), draw(pipeline, negative_prompt=""))


def test_images_of_one_prompt_follow_each_other(pipeline: L2PPipeline) -> None:
    prompts, negatives = PROMPTS[:2], ["a circle", "two"]
    each = draw(pipeline, num_images_per_prompt=2, negative_prompt=negatives, seeds=(1, 2, 3, 4))
    repeated = [text for text in prompts for _ in range(2)], [text for text in negatives for _ in range(2)]
    assert torch.equal(each, draw(pipeline, repeated[0], negative_prompt=repeated[1], seeds=(1, 2, 3, 4)))
    embeds = pipeline.encode_prompt(prompts, LENGTH)
    assert torch.equal(
        draw(pipeline, prompt_embeds=embeds, num_images_per_prompt=2, negative_prompt=negatives, seeds=(1, 2, 3, 4)),
        each,
    )


def test_latents_are_the_noise(pipeline: L2PPipeline) -> None:
    noise = draw_noise((2, 3, 16, 24), generators(1, 2))
    drawn = draw(pipeline, latents=noise, generator=None, height=None, width=None)  # the size is the noise's
    assert torch.equal(drawn, draw(pipeline))


def test_levels_are_sigmas_before_the_shift_or_timesteps_after_it(pipeline: L2PPipeline) -> None:
    image, timesteps = draw(pipeline), pipeline.scheduler.timesteps.tolist()
    assert torch.equal(draw(pipeline, sigmas=torch.linspace(1, 1 / 3, 3), num_inference_steps=30), image)
    close(draw(pipeline, timesteps=timesteps, num_inference_steps=30), image)
    shifted = draw(pipeline, sigmas=[1.0, 0.5], num_inference_steps=30)
    assert pipeline.num_timesteps == 2 and pipeline.scheduler.timesteps.tolist() == [1000, 750]  # 3 s / (1 + 2 s)
    close(draw(pipeline, timesteps=[1000, 750]), shifted)


def test_what_the_transformer_is_given_is_what_the_scheduler_steps_from(flux: L2PPipeline) -> None:
    seen: list[float] = []
    hook = flux.transformer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1][0].item()))
    draw(flux, timesteps=[900, 500, 100])
    hook.remove()
    assert seen == pytest.approx([0.9, 0.5, 0.1], abs=1e-6)


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ({"sigmas": [1.0, 0.5], "timesteps": [1000, 500]}, "either `sigmas` .* or `timesteps`"),
        ({"sigmas": [0.5, 1.0]}, "must fall from at most 1"),
        ({"timesteps": [1500, 500]}, "must fall from at most 1"),
        ({"sigmas": [1.0, 0.0]}, "stay above 0"),
        ({"sigmas": []}, "must fall from at most 1"),
    ],
)
def test_levels_that_no_sampler_can_take_are_refused(flux: L2PPipeline, levels: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw(flux, **levels)


def test_the_callback_is_given_what_it_asks_for_and_may_change_it(pipeline: L2PPipeline) -> None:
    embeds = pipeline.encode_prompt(PROMPTS[:2], LENGTH)
    other = pipeline.encode_prompt(PROMPTS[1::-1], LENGTH)
    names = ["latents", "prompt_embeds", "negative_prompt_embeds"]
    seen: list[tuple[list[str], list[int]]] = []

    def change(pipe: L2PPipeline, step: int, timestep: torch.Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append((sorted(tensors), list(tensors["latents"].shape)))
        return {"prompt_embeds": other}

    changed = draw(
        pipeline, prompt_embeds=embeds, callback_on_step_end=change, callback_on_step_end_tensor_inputs=names
    )
    assert seen == [(sorted(names), [2, 3, 16, 24])] * 3
    image = draw(pipeline, prompt_embeds=embeds)
    assert moved(changed, image) > 0.03
    assert torch.equal(draw(pipeline, prompt_embeds=embeds, callback_on_step_end=lambda *_: None), image)


def test_a_callback_may_turn_guidance_off_midway(pipeline: L2PPipeline) -> None:
    sizes: list[int] = []

    class Cutoff(PipelineCallback):
        tensor_inputs = ["latents"]

        def callback_fn(self, pipe: L2PPipeline, step: int, timestep: torch.Tensor, tensors: dict) -> dict:
            assert pipe.guidance_scale == (2.0 if step == 0 else 0.0) and pipe.current_timestep == timestep
            pipe._guidance_scale = 0.0
            return tensors

    hook = pipeline.transformer.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    draw(pipeline, callback_on_step_end=Cutoff(cutoff_step_ratio=None, cutoff_step_index=0))
    hook.remove()
    assert sizes == [4, 2, 2]


def test_interrupt_leaves_the_remaining_steps_out(flux: L2PPipeline) -> None:
    kept: list[torch.Tensor] = []

    def stop(pipe: L2PPipeline, step: int, timestep: torch.Tensor, tensors: dict[str, torch.Tensor]) -> dict:
        kept.append(tensors["latents"])
        pipe._interrupt = True
        return {}

    drawn = draw(flux, callback_on_step_end=stop)
    assert len(kept) == 1 and torch.equal(drawn, kept[0]) and flux.interrupt and flux.num_timesteps == 3
    assert flux.current_timestep is None
    assert moved(drawn, draw(flux)) > 0.03 and not flux.interrupt


def test_noise_is_drawn_on_the_generators_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def randn(size: list[int], generator: Any, device: Any) -> torch.Tensor:
        asked.append(device)
        return torch.zeros(size)

    monkeypatch.setattr(torch, "randn", randn)
    draw_noise((2, 3, 4, 4), [SimpleNamespace(device="there"), SimpleNamespace(device="cpu")])  # type: ignore[list-item]
    draw_noise((1, 3, 4, 4), None)
    assert asked == ["there", "cpu", "cpu"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_generator_may_live_on_a_gpu() -> None:
    pipeline = pixels("flux").to("cuda")
    seeds = [torch.Generator("cuda").manual_seed(seed) for seed in (1, 2)]
    again = [torch.Generator("cuda").manual_seed(seed) for seed in (1, 2)]
    assert torch.equal(draw(pipeline, generator=seeds), draw(pipeline, generator=again))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"prompt_embeds": torch.zeros(2, 48, 32)},
            r"dict of tensors.*'prompt_embeds', 'pooled_prompt_embeds'.*Tensor",
        ),
        ({"prompt_embeds": {"prompt_embeds": torch.zeros(2, 48, 32)}}, r"got \{'prompt_embeds': \[2, 48, 32\]\}"),
        ({"latents": torch.zeros(2, 3, 16, 16)}, r"`latents` are \[2, 3, 16, 16\]; .* \[2, 3, 16, 24\]"),
        ({"latents": torch.zeros(1, 3, 16, 24)}, r"`latents` are \[1, 3, 16, 24\]; .* \[2, 3, 16, 24\]"),
        ({"num_images_per_prompt": 2}, "2 generators for 4 images"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt of at least 1"),
        ({"num_inference_steps": 0}, "num_inference_steps of at least 1"),
        ({"negative_prompt": ["a", "two", "red"]}, "3 negative prompts for 2 prompts"),
        (
            {"callback_on_step_end_tensor_inputs": ["noisy"]},
            r"unknown callback tensors \['noisy'\]; known: \['latents'",
        ),
        ({"prompts": []}, "no prompt in the list"),
        ({"prompts": ["a", None]}, "each prompt must be a text; got None"),
        ({"prompts": 3}, "each prompt must be a text; got 3"),
        ({"negative_prompt": [None, "a"]}, "each prompt must be a text; got None"),
    ],
)
def test_what_does_not_fit_is_named_before_anything_runs(
    flux: L2PPipeline, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], message: str
) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("a network ran")

    monkeypatch.setattr(flux.transformer, "forward", never)
    monkeypatch.setattr(flux.text_encoder, "forward", never)
    with pytest.raises(ValueError, match=message):
        draw(flux, **given)
