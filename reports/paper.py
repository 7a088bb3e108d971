"""What the L2P paper (arXiv 2605.12013) published: its tables and its claims C1..C14, as data.

The criteria were written before any run of ours that they judge was scored; ``reports.claims`` applies them, nothing
else judges.
"""

from dataclasses import dataclass

DPG_COLUMNS = ("global", "entity", "attribute", "relation", "other")


@dataclass(frozen=True, kw_only=True)
class Published:
    """One row of table 1: DPG-Bench (0..100, L1 categories in ``DPG_COLUMNS``' order) and GenEval (0..1).

    ``space`` is where the model denoises, ``family`` our name of its architecture ("" where we have none).
    """

    method: str
    family: str
    space: str
    categories: tuple[float | None, ...]
    dpg: float
    geneval: float


def _row(method: str, family: str, space: str, *values: float | None) -> Published:
    *categories, dpg, geneval = values
    assert dpg is not None and geneval is not None and len(categories) == len(DPG_COLUMNS)
    return Published(method=method, family=family, space=space, categories=tuple(categories), dpg=dpg, geneval=geneval)


# Section 4, table 1: global, entity, attribute, relation, other, DPG average, GenEval at 1024 x 1024
TABLE1 = (
    _row("FLUX.1 [dev]", "flux", "latent", 74.35, 90.00, 88.96, 90.87, 88.33, 83.84, 0.66),
    _row("SD3 Medium", "sd3", "latent", 87.90, 91.01, 88.83, 80.70, 88.68, 84.08, 0.62),
    _row("Qwen-Image", "qwenimage", "latent", 91.32, 91.56, 92.02, 94.31, 92.73, 88.32, 0.87),
    _row("Seedream 3.0", "", "latent", 94.31, 92.65, 91.36, 92.78, 88.24, 88.27, 0.84),
    _row("Z-Image-Turbo (source)", "zimage", "latent", 91.29, 89.59, 90.14, 92.16, 88.68, 84.86, 0.82),
    _row("PixelFlow", "", "pixel", None, None, None, None, None, 77.93, 0.60),
    _row("PixelGen", "", "pixel", 85.61, 86.84, 89.35, 85.69, 87.85, 80.01, 0.79),
    _row("DeCo", "", "pixel", 84.91, 88.58, 87.61, 89.70, 88.18, 81.25, 0.86),
    _row("PixNerd", "", "pixel", 87.16, 89.53, 88.94, 89.26, 88.70, 82.65, 0.73),
    _row("PixelDiT", "", "pixel", None, None, None, None, None, 83.50, 0.74),
    _row("L2P", "zimage", "pixel", 92.02, 90.84, 89.48, 93.00, 91.55, 86.00, 0.76),
)
TABLE1_SOURCE, TABLE1_L2P = TABLE1[4], TABLE1[-1]

RETENTION = {"geneval": "about 93 %", "dpg": f"{100 * TABLE1_L2P.dpg / TABLE1_SOURCE.dpg:.1f} %"}
"""What the paper says is kept, by suite: GenEval by its abstract, DPG-Bench by table 1."""

TABLE1_NOTES = (
    "The published rows mix protocols. PixNerd's GenEval figure uses rewritten prompts at 512 px; other groups' own "
    "figures differ (DPG: PixNerd 80.9 against 82.65 here, DeCo 81.4 against 81.25).",
    "The source row is the few-step Turbo model (some 8 forwards an image); L2P samples with 30 steps and guidance "
    "(60 forwards): an image costs about 7.6 times the FLOPs at 1K, which figure 4's single step does not show.",
    "The published DPG average is not the mean of the five category scores: the official script takes the categories "
    "from ungated answers of the last crop only.",
)

TABLE2_COLUMNS = ("fid", "fid_patch", "is", "clip", "fg_clip")
# Table 2, 4K on UltraHR-eval4k: method, how it reaches 4K, then FID, FID-patch, IS, Long-CLIP and FG-CLIP scores
TABLE2 = (
    ("I-Max", "training-free", 37.12, 34.42, 11.78, 31.53, 27.90),
    ("HiFlow", "training-free", 38.54, 22.74, 10.62, 31.49, 27.84),
    ("PixArt-Sigma", "trained", 35.60, 23.63, 12.23, 31.76, 28.74),
    ("SANA", "trained", 37.26, 28.94, 12.05, 31.79, 29.31),
    ("Diffusion4K", "trained", 41.69, 39.67, 12.06, 31.44, 27.03),
    ("L2P", "trained", 33.46, 21.77, 12.28, 31.88, 28.22),
)

# Claim C13: the families that are known here, what each must keep in the mean, what its interval must lie above, seeds
FAMILIES = ("flux", "sd3", "zimage", "qwenimage", "flux2")
KEPT_MEAN, KEPT_LOW, KEPT_SEEDS = 0.85, 0.75, 3
# Claim C5: corpus sizes, (from, to) at the small end and at the large one
SIZE_STEPS = ((500, 2_000), (4_000, 20_000))
SHIFTS = (1.0, 4.0)  # claim C7
SCRATCH_TIMES = 10  # claim C12: images of the training from scratch, in those of the transfer

# Figure 4: change of one denoising step at 4096 x 4096 against the source, in percent
FIGURE4_LATENCY, FIGURE4_MEMORY = -97.67, -38.81


@dataclass(frozen=True, kw_only=True)
class Rule:
    """The machine's half of a criterion: what ``quantity``'s estimate must do.

    ``relation``: "reaches" (the 95 % interval's upper end is at least ``bound``), "above" (its lower end is greater
    than ``bound``), "at least" or "at most" (the value itself, for exact quantities). What decides nothing is not
    tested: an interval wider than ``max_width`` that passes, and any interval from fewer than ``min_clusters`` prompts
    (DPG: items; held-out pairs: images), too few for a bootstrap.
    """

    quantity: str
    relation: str
    bound: float
    max_width: float | None = None
    min_clusters: int = 30


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A statement of the paper, where it stands, and the criterion that a run is judged by.

    ``scope`` is the size that the criterion is written for, "miniature" or "paper"; ``untested`` says what evidence
    is missing when no run of a report brings any; ``part`` what the verdict is about, where the criterion tests less
    than the statement says.
    """

    id: str
    statement: str
    source: str
    scope: str
    criterion: str
    rule: Rule
    untested: str
    part: str = ""


CLAIMS = (
    Claim(
        id="C1",
        statement="L2P keeps about 93 % of the source's GenEval.",
        source="abstract, table 1",
        scope="miniature",
        criterion="Retention (pixel model / source, overall GenEval, paired by prompt; mean over transfer seeds): its "
        "95 % interval overlaps 0.93 ± 0.05 or lies above it, and is at most 0.25 wide, from at least 30 prompts. "
        "Judged on the longest transfer that keeps to the paper: two ends and Detailer Head tuned, the middle "
        "unchanged by hash.",
        rule=Rule(quantity="geneval_retention", relation="reaches", bound=0.88, max_width=0.25),
        untested="Needs GenEval scores of source and pixel model from a transfer that keeps to the paper.",
    ),
    Claim(
        id="C2",
        statement="L2P is on par with its source on DPG-Bench.",
        source="abstract, table 1",
        scope="miniature",
        criterion="DPG retention (paired by item; mean over transfer seeds): its 95 % interval reaches 1 or lies "
        "above it, and is at most 0.10 wide, from at least 30 items. Judged on the same transfer as C1.",
        rule=Rule(quantity="dpg_retention", relation="reaches", bound=1.0, max_width=0.10),
        untested="Needs DPG-Bench scores of source and pixel model from a transfer that keeps to the paper.",
    ),
    Claim(
        id="C3",
        statement="Source-made data converges faster and ends better than real data; cross-model data lies between.",
        source="figure 9a",
        scope="miniature",
        criterion="GenEval of the transfer on source-made images minus that of the transfer on rendered (real) images "
        "of the same prompts, at equal steps, paired by prompt, over all seeds: the 95 % interval lies above 0. "
        "Another family's images and shorter transfers stand beside, in figure 9a. The rendered images are right "
        "without exception, which no photograph's caption is: a strict test.",
        rule=Rule(quantity="data_source_gain", relation="above", bound=0.0),
        untested="Needs transfers on source-made and on rendered images of the same prompts (`python -m reproduce "
        "study data-source`).",
        part="source-made data ends better than rendered scenes; neither speed nor another model's data",
    ),
    Claim(
        id="C4",
        statement="Tuning the shallow layers beats tuning 10 layers or all of them; full tuning stagnates.",
        source="figure 9b",
        scope="miniature",
        criterion="First half only: GenEval with the shallow blocks tuned minus GenEval with all blocks tuned, same "
        "steps and batch, paired by prompt: the 95 % interval reaches 0 (shallow is not worse) and is at most 0.15 "
        "wide, from at least 30 prompts.",
        rule=Rule(quantity="shallow_minus_full", relation="reaches", bound=0.0, max_width=0.15),
        untested="Needs the same transfer with all blocks tuned beside the shallow one (`python -m reproduce study "
        "depth`).",
        part="tuning the shallow layers is no worse than tuning all; neither that it is better nor stagnation",
    ),
    Claim(
        id="C5",
        statement="10k to 20k training images helps much, 100k no more.",
        source="figure 9c",
        scope="miniature",
        criterion="Saturation: GenEval gained from 500 to 2,000 corpus images minus GenEval gained from 4,000 to "
        "20,000, at equal steps, paired by prompt, over all seeds: the 95 % interval lies above 0 (four times the "
        "images help at the small end more than five times at the large).",
        rule=Rule(quantity="corpus_size_saturation", relation="above", bound=0.0),
        untested="Needs transfers on corpora of 500, 2,000, 4,000 and 20,000 images at equal steps (`python -m "
        "reproduce study data-size`).",
    ),
    Claim(
        id="C6",
        statement="At 4K one step is 97.67 % faster and needs 38.81 % less peak memory than the source.",
        source="figure 4",
        scope="paper",
        criterion="One protocol (guidance batch, text encoder resident or not, VAE counted or not) is within 1 "
        "percentage point of both published reductions; the band over all protocols stands beside. Predicted from the "
        "full-size networks (FLOPs and memory exact, latency by FLOPs or roofline): consistency, not a measurement.",
        rule=Rule(quantity="figure4_gap", relation="at most", bound=1.0),
        untested="Needs predicted cost records of source and pixel model at 4096 px (`python -m bench cost --paper`).",
    ),
    Claim(
        id="C7",
        statement="At high resolution FID falls as noise shift goes from 1 to 4 and rises a little at 5.",
        source="figure 12",
        scope="miniature",
        criterion="GenEval of a pixel model of four times the resolution, trained on from the usual one's weights "
        "with noise shift 4 in training and sampling, minus that with shift 1, paired by prompt, over all seeds: the "
        "95 % interval lies above 0. Shifts 2, 3 and 5 stand beside, in figure 12; FID itself wants thousands of "
        "pictures.",
        rule=Rule(quantity="shift_gain", relation="above", bound=0.0),
        untested="Needs transfers of a high-resolution pixel model at noise shifts 1 and 4 (`python -m reproduce "
        "study noise-shift`).",
        part="GenEval is higher with shift 4 than with shift 1; neither FID nor shift 5",
    ),
    Claim(
        id="C8",
        statement="Across seeds L2P is more diverse (LPIPS) than DeCo and PixelGen.",
        source="figure 5",
        scope="miniature",
        criterion="Mean distance (LPIPS) between the pictures of one prompt's seeds, the transfer's minus that of the "
        "same pixel model trained from scratch on the same corpus with as many steps, as DeCo and PixelGen are pixel "
        "models trained from scratch; paired by prompt, over all seeds: the 95 % interval lies above 0.",
        rule=Rule(quantity="diversity_gain", relation="above", bound=0.0),
        untested="Needs diversity scores of a transfer and of a model trained from scratch for as many steps "
        '(`python -m reproduce study scratch`, whose suite the benchmark "diversity" scores).',
    ),
    Claim(
        id="C9",
        statement="Abilities absent from the transfer data survive (Korean text after English and Chinese data).",
        source="figure 6",
        scope="miniature",
        criterion="On shape and colour pairs absent from the transfer corpus, retention (pixel model / source): its "
        "95 % interval overlaps 0.93 ± 0.05 or lies above it, and is at most 0.35 wide, from at least 30 images.",
        rule=Rule(quantity="heldout_retention", relation="reaches", bound=0.88, max_width=0.35),
        untested="Needs scores of source and pixel model on the held-out pairs.",
    ),
    Claim(
        id="C10",
        statement="The 4K model makes consistent 8K images without training.",
        source="figure 15",
        scope="miniature",
        criterion="GenEval of the pixel model drawing at twice its training resolution, its weights and patch size as "
        "they are, divided by that at the training resolution, paired by prompt, over all seeds: the 95 % interval "
        "reaches 0.88, and is at most 0.25 wide, from at least 30 prompts.",
        rule=Rule(quantity="extrapolation_retention", relation="reaches", bound=0.88, max_width=0.25),
        untested="Needs a suite drawn at twice the training resolution (`python -m reproduce study extrapolation`).",
    ),
    Claim(
        id="C11",
        statement="Best FID, FID-patch and IS at 4K among the compared models.",
        source="table 2",
        scope="paper",
        criterion="Number of the three metrics on UltraHR-eval4k in which the scored L2P images beat every other "
        "published row of table 2: all three.",
        rule=Rule(quantity="table2_wins", relation="at least", bound=3),
        untested="Needs the released 4K weights, UltraHR-eval4k's photographs and captions, a GPU for 4K images of "
        "all its prompts (from 2,048 on, below which FID means nothing), and the weights of Inception, Long-CLIP and "
        "FG-CLIP 2. The paper does not publish its recipe, so the score would carry the name of another's.",
    ),
    Claim(
        id="C12",
        statement="Transfer needs only 8 GPUs: negligible training overhead against training from scratch.",
        source="abstract",
        scope="miniature",
        criterion="GenEval of the transfer minus that of the same pixel model trained from scratch on the same "
        "corpus, all its weights and with ten times the images, paired by prompt, over all seeds: the 95 % interval "
        "reaches 0, and is at most 0.15 wide (from scratch, ten times the training is not shown to be better: the "
        "overhead is a tenth or less).",
        rule=Rule(quantity="transfer_minus_scratch", relation="reaches", bound=0.0, max_width=0.15),
        untested="Needs the same pixel model trained from scratch for ten times the images (`python -m reproduce "
        "study scratch`); the paper states neither its steps nor the source's own training.",
    ),
    Claim(
        id="C13",
        statement="It works across mainstream LDM architectures.",
        source="abstract (shown for one, Z-Image)",
        scope="miniature",
        criterion="Families, of the five that are known here, whose shortest transfer that keeps to the paper (at "
        "least three seeds) keeps 0.85 or more of its source's GenEval in the mean, with the 95 % interval's lower "
        "end above 0.75, from at least 30 prompts: all five. One family that keeps less decides against it.",
        rule=Rule(quantity="families_kept", relation="at least", bound=5),
        untested="Needs three transfer seeds of every family (`nox -s reproduce-<family>`, with --seed 1 and 2).",
    ),
    Claim(
        id="C14",
        statement="No real data is needed.",
        source="abstract (true of the 1K transfer; the 4K model trains on real photographs)",
        scope="miniature",
        criterion="C1's criterion, met by a transfer whose every training image was drawn by the source from a "
        "recorded prompt and seed.",
        rule=Rule(quantity="source_made_retention", relation="reaches", bound=0.88, max_width=0.25),
        untested="Needs C1's evidence and the corpus's metadata.",
    ),
)
