"""FLUX's recipes."""

from __future__ import annotations

from dataclasses import replace

from l2p.detailer import DetailerConfig
from reproduce.recipes.base import Recipe, Sampler, of_steps
from reproduce.recipes.miniature import ablation, longer, miniature
from reproduce.recipes.paper import at_4k, paper, with_rewritten

SOURCE_SAMPLER = Sampler(num_inference_steps=50, guidance_scale=1.0, max_sequence_length=512, batch_size=8)
"""The model card's: 50 steps, distilled guidance 3.5."""
OF_DENSE_PROMPTS = ("geneval", "dpg")  # the suites of what might bring DPG-Bench back (claim C2)


def flux_mini() -> Recipe:
    """The paper in miniature, on a laptop: `nox -s reproduce-flux`.

    Hardware: two cores, no GPU: 7 (AVX-512) to 13 minutes (AVX2), 3.0 GiB. Settings: what a prototype found best.
    Three seeds: GenEval 0.978 (source) and 0.958 (pixel model), retention 0.980 (0.917, 1.043).
    """
    return miniature("flux")


def flux_mini_long() -> Recipe:
    """The same, longer, for the claims: `nox -s reproduce-flux -- --recipe flux_mini_long`, then with `--seed 1`, `2`.

    Hardware: two cores, no GPU: some 20 minutes a seed with two processes, 39 to 46 with one beside another run
    (AVX-512). A larger corpus, three times the steps and more images to score, nothing else. Three seeds: GenEval 0.982
    (source) and 0.966 (pixel model), retention 0.984 (0.946, 1.020); DPG-Bench keeps 0.879 (0.847, 0.909).
    """
    return longer(flux_mini())


def flux_mini_full() -> Recipe:
    """The same at a length nearer to the paper's 800,000 images: `nox -s reproduce-flux -- --recipe flux_mini_full`.

    Hardware: two cores, no GPU: two to three hours. 12,000 corpus images, 480,000 images trained on; suites as the long
    recipe's. One seed: GenEval 0.982 (source) and 0.988 (pixel model), retention 1.006 (0.971, 1.037); DPG-Bench keeps
    0.928 (0.905, 0.949).
    """
    long = flux_mini_long()
    return replace(
        long,
        name="flux-mini-full",
        corpus=replace(long.corpus, num_prompts=12_000),
        transfer=of_steps(long.transfer, 30_000),
    )


def flux_mini_open() -> Recipe:
    """`flux_mini` in the world whose prompts leave the layout open, as GenEval's do, by the source trained on it.

    Hardware: as `flux_mini`, two cores, no GPU. Three seeds: GenEval 0.942 (source) and 0.830 (pixel model), retention
    0.882 (0.802, 0.959).
    """
    return in_open_world(flux_mini())


def flux_mini_long_open() -> Recipe:
    """`flux_mini_long` in the world whose prompts leave the layout open.

    Hardware: as `flux_mini_long`, two cores, no GPU. Three seeds: GenEval 0.923 (source) and 0.837 (pixel model),
    retention 0.907 (0.836, 0.974); DPG-Bench keeps 0.856 (0.824, 0.887).
    """
    return in_open_world(flux_mini_long())


def flux_mini_full_open() -> Recipe:
    """`flux_mini_full` in the world whose prompts leave the layout open.

    Hardware: as `flux_mini_full`, two cores, no GPU. Not run yet.
    """
    return in_open_world(flux_mini_full())


def in_open_world(recipe: Recipe) -> Recipe:
    """The recipe with the source of the other world; its prompts are the same, what they settle is not."""
    return replace(recipe, name=f"{recipe.name}-open", source=f"{recipe.source}-open", world="layouts open")


def flux_mini_all() -> Recipe:
    """`flux_mini` with every block trained: claim C4's other side, GenEval alone.

    `-- --recipe flux_mini_all`. Hardware: two cores, no GPU. Nothing but what is trained differs. Three seeds: GenEval
    0.973, where `flux_mini` has 0.958.
    """
    short = flux_mini()
    return ablation(replace(short, transfer=replace(short.transfer, trainable="all")), "all", "every block trained")


def flux_mini_plain() -> Recipe:
    """`flux_mini` with the plain setting of every option that the paper leaves open, GenEval alone.

    Hardware: two cores, no GPU. Random input projection, velocity from the head as released, nearest upsampling, one
    learning rate (the prototype's 1e-3; the paper's 5e-5 moves nothing in so few steps), an unweighted loss. One seed:
    GenEval 0.942, no shown difference to the usual setting's 0.958.
    """
    short = flux_mini()
    transfer = replace(
        short.transfer,
        input_projection="random",
        prediction="velocity",
        output_scale=1.0,
        detailer=DetailerConfig(),
        learning_rate=1e-3,
        block_learning_rate=None,
        loss_weight_below=0.0,
    )
    plain = "what the paper leaves open, at its plain setting"
    return ablation(replace(short, transfer=transfer), "plain", plain)


def flux_mini_dense() -> Recipe:
    """`flux_mini` with half of the corpus told by dense prompts, where it has 0.15: can DPG-Bench be had so?

    Hardware: as `flux_mini`, two cores, no GPU; GenEval and DPG-Bench alone. One seed: DPG-Bench 79.3
    against 74.2, +5.1 (-0.3, 10.6).
    """
    short = flux_mini()
    corpus = replace(short.corpus, prompts="reproduce.miniature.prompts:denser_corpus_prompts")
    return ablation(replace(short, corpus=corpus), "dense", "half of the corpus dense prompts", OF_DENSE_PROMPTS)


def flux_mini_middle() -> Recipe:
    """`flux_mini` with a Detailer Head whose two middle levels are wider: 64 and 96 channels for 32 and 64.

    Hardware: as `flux_mini`, two cores, no GPU; GenEval and DPG-Bench alone. One seed: DPG-Bench 74.7
    against 74.2, +0.5 (-4.7, 5.8).
    """
    short = flux_mini()
    detailer = replace(short.transfer.detailer, channels=(16, 64, 96, 128))
    transfer = replace(short.transfer, detailer=detailer)
    return ablation(replace(short, transfer=transfer), "middle", "the head's middle levels wider", OF_DENSE_PROMPTS)


def flux_mini_blocks() -> Recipe:
    """`flux_mini` with two blocks trained at each end instead of one.

    Hardware: as `flux_mini`, two cores, no GPU; GenEval and DPG-Bench alone. One seed: DPG-Bench 77.4
    against 74.2, +3.2 (-2.1, 8.6).
    """
    short = flux_mini()
    transfer = replace(short.transfer, num_trainable_blocks=2)
    return ablation(replace(short, transfer=transfer), "blocks", "two blocks trained at each end", OF_DENSE_PROMPTS)


def flux_paper() -> Recipe:
    """FLUX.1-dev, at the paper's size: `nox -s reproduce-flux -- --size paper`.

    Hardware: `--plan` says which GPUs it needs and for how long (docs/paper-size.md). Weights come from the hub
    (its licence must be accepted there). Not measured by us yet.
    """
    return paper(family="flux", source="black-forest-labs/FLUX.1-dev", source_sampler=SOURCE_SAMPLER)


def flux_paper_rewritten() -> Recipe:
    """`flux_paper` with a second GenEval suite of rewritten prompts: `-- --recipe flux_paper_rewritten`.

    Hardware: as `flux_paper`. Not measured by us yet.
    """
    return with_rewritten(flux_paper())


def flux_4k() -> Recipe:
    """FLUX.1-dev at 4096 px, trained on photographs of yours: `-- --recipe flux_4k`.

    Hardware: as `flux_paper`, and far more disk. Not measured by us yet.
    """
    return at_4k(flux_paper())


RECIPES = {
    function.__name__: function
    for function in (
        flux_mini,
        flux_mini_long,
        flux_mini_full,
        flux_mini_open,
        flux_mini_long_open,
        flux_mini_full_open,
        flux_mini_all,
        flux_mini_plain,
        flux_mini_dense,
        flux_mini_middle,
        flux_mini_blocks,
        flux_paper,
        flux_paper_rewritten,
        flux_4k,
    )
}
