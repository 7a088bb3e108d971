"""A mutation study: faults planted one at a time in a copy of the project, each of which a test must catch.

python tests/tools/mutations.py --out docs/log/<date>-mutations.md          about an hour on one core

The list is our own: each fault is one that somebody could make, or that was once there unseen. A fault names the tests
that are asked first; where they all pass, the whole room's tests are asked, and a fault that passes those has survived.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIBRARIES = ("numpy", "scipy.stats", "PIL.Image", "matplotlib.figure", "typer", "rich.table", "accelerate", "diffusers")
LEFT_OUT = (".git", ".venv*", "runs", "docs", "*cache*", "__pycache__", ".benchmarks")


@dataclass(frozen=True)
class Fault:
    """`before` stands once in `path` and becomes `after`; `tests` are asked first."""

    path: str
    before: str
    after: str
    tests: str


PIPELINE = "tests/l2p/test_pipeline.py"
SAMPLING = "tests/l2p/test_pipeline.py tests/l2p/test_diffusers_schedulers.py tests/l2p/test_diffusers_arguments.py"
SOURCES = "tests/l2p/test_sources.py tests/l2p/test_families.py"
TRAINING = "tests/l2p/test_training.py tests/l2p/test_transfer.py"
GENEVAL = "tests/bench/geneval/test_rules.py"
DPG = "tests/bench/dpg/test_rules.py"
STATISTICS = "tests/bench/test_statistics.py"
ESTIMATES = "tests/reports/test_estimates.py"
SIGNIFICANCE = "tests/reports/test_significance.py"
GATE = "tests/reports/test_regression.py"
BASELINE = "tests/reports/test_baseline.py"
PICTURES = "tests/l2p/test_pictures.py"
TABLES = "tests/l2p/test_tables.py"
RELEASES = "tests/l2p/test_release.py"
CONVERSION = "tests/l2p/test_conversion.py"
OPTIMISE = "tests/l2p/test_training.py"

FAULTS = (
    # the flow and what it learns
    Fault("l2p/flow.py", "(1 - s) * clean + s * noise", "s * clean + (1 - s) * noise", "tests/l2p/test_flow.py"),
    Fault("l2p/flow.py", "return noise - clean", "return clean - noise", "tests/l2p/test_flow.py"),
    Fault(
        "l2p/flow.py",
        "noisy - per_image(sigma) * velocity",
        "noisy + per_image(sigma) * velocity",
        "tests/l2p/test_flow.py",
    ),
    Fault("l2p/flow.py", "(1 + (shift - 1) * sigma)", "(1 + shift * sigma)", "tests/l2p/test_flow.py"),
    Fault(
        "l2p/flow.py", ".clamp(max=1).square()", ".clamp(max=1)", "tests/l2p/test_flow.py tests/l2p/test_training.py"
    ),
    # the sampler
    Fault(
        "l2p/pipeline.py",
        "return uncond + self.guidance_scale * (cond - uncond)",
        "return cond + self.guidance_scale * (cond - uncond)",
        PIPELINE,
    ),
    Fault("l2p/pipeline.py", "uncond, cond = velocity.chunk(2)", "cond, uncond = velocity.chunk(2)", PIPELINE),
    Fault(
        "l2p/pipeline.py",
        "sigma = timestep, self.scheduler.sigmas[i]",
        "sigma = timestep, self.scheduler.sigmas[0]",
        PIPELINE,
    ),
    Fault(
        "l2p/pipeline.py",
        "sigma = timestep, self.scheduler.sigmas[i]",
        "sigma = timestep, self.scheduler.sigmas[i + 1]",
        PIPELINE,
    ),
    Fault(
        "l2p/pipeline.py",
        "texts = list(prompt) if isinstance(prompt, Sequence)",
        "texts = list(prompt)[::-1] if isinstance(prompt, Sequence)",
        SAMPLING,
    ),
    Fault("l2p/pipeline.py", "return self._guidance_scale > 1", "return self._guidance_scale != 1", PIPELINE),
    Fault(
        "l2p/pipeline.py",
        "split_prompts(uncond) + split_prompts(cond)",
        "split_prompts(cond) + split_prompts(uncond)",
        PIPELINE,
    ),
    Fault("l2p/pipeline.py", "max_sequence_length - longer", "max_sequence_length", SAMPLING),
    Fault(
        "l2p/sampling.py",
        "torch.linspace(1, 1 / num_inference_steps, num_inference_steps)",
        "torch.linspace(1, 0, num_inference_steps)",
        SAMPLING,
    ),
    Fault("l2p/sampling.py", "k = mu if config.get", "k = 1.0 if config.get", SAMPLING),
    Fault(
        "l2p/sampling.py",
        "[s / (k - (k - 1) * s) for s in levels]",
        "[s / (k - (k + 1) * s) for s in levels]",
        SAMPLING,
    ),
    Fault(
        "l2p/sampling.py",
        "each = generator if isinstance(generator, list) else [generator] * batch_size",
        "each = [generator[0] if isinstance(generator, list) else generator] * batch_size",
        PIPELINE,
    ),
    Fault("l2p/sampling.py", "return given.float()", "return given.float() * 0.5", SAMPLING),
    # the head and the transformer
    Fault("l2p/detailer.py", "x = F.max_pool2d(x, 2)", "x = F.avg_pool2d(x, 2)", "tests/l2p/test_detailer.py"),
    Fault(
        "l2p/detailer.py",
        "torch.cat([x, token_map], dim=1)",
        "torch.cat([x, token_map * 0], dim=1)",
        "tests/l2p/test_detailer.py",
    ),
    Fault(
        "l2p/detailer.py",
        "torch.cat([x, skips.pop()], dim=1)",
        "torch.cat([x, skips.pop() * 0], dim=1)",
        "tests/l2p/test_detailer.py",
    ),
    Fault("l2p/detailer.py", "nn.init.zeros_(parameter)", "nn.init.ones_(parameter)", "tests/l2p/test_detailer.py"),
    Fault(
        "l2p/pixel_transformer.py",
        "return (noisy - painted) / sigma",
        "return (painted - noisy) / sigma",
        "tests/l2p/test_pixel_transformer.py",
    ),
    Fault(
        "l2p/pixel_transformer.py",
        "tokens.transpose(1, 2).reshape(batch, -1, h, w)",
        "tokens.transpose(1, 2).reshape(batch, -1, w, h).transpose(2, 3)",
        "tests/l2p/test_pixel_transformer.py tests/l2p/test_families.py",
    ),
    Fault(
        "l2p/pixel_transformer.py",
        "family.velocity_sign if prediction",
        "1 if prediction",
        "tests/l2p/test_pixel_transformer.py tests/l2p/test_families.py",
    ),
    # the families
    Fault(
        "l2p/architectures/base.py",
        "ids[..., 1] = torch.arange(height, device=device)[:, None]",
        "ids[..., 1] = 0 * torch.arange(height, device=device)[:, None]",
        SOURCES,
    ),
    Fault(
        "l2p/architectures/flux2.py",
        'text = prompt["prompt_embeds"].to(noisy.dtype)',
        'text = 0 * prompt["prompt_embeds"].to(noisy.dtype)',
        SOURCES,
    ),
    Fault("l2p/architectures/flux2.py", "text_ids[:, 3] = torch.arange", "text_ids[:, 3] = 0 * torch.arange", SOURCES),
    Fault(
        "l2p/architectures/flux.py",
        'prompt["pooled_prompt_embeds"].to(noisy.dtype)',
        '0 * prompt["pooled_prompt_embeds"].to(noisy.dtype)',
        SOURCES,
    ),
    Fault("l2p/architectures/sd3.py", "timestep=sigma * 1000", "timestep=sigma", SOURCES),
    Fault(
        "l2p/architectures/sd3.py",
        'prompt["pooled_prompt_embeds"].to(noisy.dtype)',
        '0 * prompt["pooled_prompt_embeds"].to(noisy.dtype)',
        SOURCES,
    ),
    Fault("l2p/architectures/zimage.py", "t=1 - sigma", "t=sigma", SOURCES),
    Fault("l2p/architectures/zimage.py", "embeds[mask] for embeds, mask", "embeds for embeds, mask", SOURCES),
    Fault(
        "l2p/architectures/qwenimage.py",
        'encoder_hidden_states_mask=prompt["mask"]',
        'encoder_hidden_states_mask=torch.ones_like(prompt["mask"])',
        SOURCES,
    ),
    Fault("l2p/architectures/qwenimage.py", "(1, noisy.shape[-2] //", "(1, noisy.shape[-1] //", SOURCES),
    # the training
    Fault(
        "l2p/training/data.py",
        "generator = seeded(rule.seed, 1, step, slot)",
        "generator = seeded(rule.seed, 1, step)",
        TRAINING,
    ),
    Fault("l2p/training/data.py", "seeded(seed, 2, epoch)", "seeded(seed, 2)", TRAINING),
    Fault("l2p/training/data.py", 'texts = ["" if slot.dropped else', 'texts = ["" if not slot.dropped else', TRAINING),
    Fault(
        "l2p/training/data.py",
        "return order[num_validation_images:], order[:num_validation_images]",
        "return order, order[:num_validation_images]",
        TRAINING,
    ),
    Fault("l2p/training/optimise.py", "return warm * max(decay, final_share)", "return warm * decay", OPTIMISE),
    Fault("l2p/training/optimise.py", 'group["base_lr"] * self.rate_share(step)', 'group["base_lr"]', OPTIMISE),
    Fault("l2p/training/optimise.py", 'self.max_grad_norm or float("inf")', 'float("inf")', OPTIMISE),
    Fault(
        "l2p/training/optimise.py", "/ len(batch)\n                yield loss", "\n                yield loss", OPTIMISE
    ),
    Fault("l2p/training/optimise.py", "self.ema.restore(parameters)", "pass", OPTIMISE),
    Fault(
        "l2p/trainable.py",
        "blocks[:num_blocks] + blocks[len(blocks) - num_blocks :]",
        "blocks[: 2 * num_blocks]",
        TRAINING,
    ),
    Fault(
        "l2p/trainable.py",
        "if config.block_learning_rate is None else config.block_learning_rate",
        "if True else config.block_learning_rate",
        TRAINING,
    ),
    # the alarms
    Fault(
        "l2p/alarms.py",
        "variance / ((1 - sigma) ** 2 * variance + sigma**2)",
        "variance / ((1 - sigma) * variance + sigma)",
        "tests/l2p/test_alarms.py",
    ),
    Fault("l2p/alarms.py", "if max(gains.values()) > 0:", "if max(gains.values()) > -1:", "tests/l2p/test_alarms.py"),
    # GenEval's rules
    Fault("bench/geneval/rules.py", "if detection.score > threshold:", "if detection.score >= threshold:", GENEVAL),
    Fault("bench/geneval/rules.py", 'if number >= clause["count"]:', 'if number > clause["count"]:', GENEVAL),
    Fault(
        "bench/geneval/rules.py",
        "holds = (dx < -0.5, dx > 0.5, dy < -0.5, dy > 0.5)",
        "holds = (dx > 0.5, dx < -0.5, dy < -0.5, dy > 0.5)",
        GENEVAL,
    ),
    Fault("bench/geneval/rules.py", "length = hypot(offset_x, offset_y)", "length = hypot(dx, dy)", GENEVAL),
    Fault(
        "bench/geneval/rules.py",
        "max(x1 - x0 + 1, 0) * max(y1 - y0 + 1, 0)",
        "max(x1 - x0, 0) * max(y1 - y0, 0)",
        GENEVAL,
    ),
    Fault("bench/geneval/rules.py", "< max_overlap for better", "<= max_overlap for better", GENEVAL),
    Fault("bench/geneval/rules.py", "[: -max_objects - 1 : -1]", "[::-1]", GENEVAL),
    Fault(
        "bench/geneval/rules.py",
        'return self.counting_threshold if task == "counting" else self.score_threshold',
        "return self.score_threshold",
        GENEVAL,
    ),
    Fault("bench/geneval/rules.py", "if colors.count(color) >= count:", "if color in colors:", GENEVAL),
    # DPG-Bench's rules
    Fault("bench/dpg/rules.py", "for row in file.rows[1:]:", "for row in file.rows:", DPG),
    Fault(
        "bench/dpg/rules.py",
        "categories=_by_category(questions, [raw]))",
        "categories=_by_category(questions, [raw, raw]))",
        DPG,
    ),
    Fault(
        "bench/dpg/rules.py",
        "if any(value[parent] == 0 for parent in question.parents):",
        "if any(raw[parent] == 0 for parent in question.parents):",
        DPG,
    ),
    Fault("bench/dpg/rules.py", 'answer.strip().rstrip(".").strip().lower()', "answer.strip().lower()", DPG),
    Fault("bench/dpg/rules.py", "float(all(crop[i] for i in above))", "float(any(crop[i] for i in above))", DPG),
    Fault("bench/dpg/rules.py", "crop.get(parent, 1.0)", "crop.get(parent, 0.0)", DPG),
    Fault(
        "bench/dpg/rules.py",
        "return 100 * _mean(values) if values else None",
        "return 100 * sum(values) / len(items) if values else None",
        DPG,
    ),
    # statistics
    Fault("bench/statistics.py", "tail = (1 - CONFIDENCE) / 2", "tail = 1 - CONFIDENCE", STATISTICS),
    Fault(
        "bench/statistics.py", "return float(min(1.0, 2 * min(tails)", "return float(min(1.0, min(tails)", STATISTICS
    ),
    Fault(
        "bench/statistics.py",
        "means.append(sums / (cells.counts @ weights + unseen.sum(0)))",
        "means.append(sums / (cells.counts @ weights))",
        STATISTICS,
    ),
    Fault("bench/statistics.py", "_unseen_weight(cells) / len(table) / 2", "_unseen_weight(cells) / 2", STATISTICS),
    Fault("bench/statistics.py", "high=float(max(high, value))", "high=float(high)", STATISTICS),
    Fault("bench/statistics.py", "/ at_bounds).max()", "/ at_bounds).min()", STATISTICS),
    Fault("bench/statistics.py", "unseen *= cells.counts.mean()", "unseen *= 1", STATISTICS),
    Fault("bench/statistics.py", "1 - 2 * (1 - 1 / len(table)) / num_clusters", "1.0", STATISTICS),
    Fault("bench/statistics.py", "(values.sum(1) + 0.5) / (num_clusters + 1)", "values.mean(1)", STATISTICS),
    # what reports estimate
    Fault("reports/estimates.py", "stdev(by_seed) / len(by_seed) ** 0.5", "stdev(by_seed)", ESTIMATES),
    Fault("reports/estimates.py", "student.ppf(0.975, len(by_seed) - 1)", "student.ppf(0.975, 1000)", ESTIMATES),
    # the gate: how much two sides differ
    Fault(
        "reports/regression/significance.py",
        "p_values[k] * left / weights[k]",
        "p_values[k] * sum(weights) / weights[k]",
        SIGNIFICANCE,
    ),
    Fault("reports/regression/significance.py", "largest = max(largest, min(", "largest = max(0.0, min(", SIGNIFICANCE),
    Fault(
        "reports/regression/significance.py",
        "for one in found.values()) / halves[name] ** 2",
        "for one in found.values()) / halves[name]",
        SIGNIFICANCE,
    ),
    Fault("reports/regression/significance.py", "float(2 * student.sf(", "float(student.sf(", SIGNIFICANCE),
    Fault(
        "reports/regression/significance.py",
        "of_one * (1 / len(before) + 1 / len(after))",
        "of_one * (1 / len(before))",
        SIGNIFICANCE,
    ),
    Fault(
        "reports/regression/significance.py",
        "student.sf(abs(change) / error, freedom)",
        "student.sf(abs(change) / error, EXACT)",
        SIGNIFICANCE,
    ),
    Fault("reports/regression/significance.py", "mean(change**2 - variance for", "mean(change**2 for", SIGNIFICANCE),
    Fault(
        "reports/regression/significance.py",
        "freedom = sum(len(side) - 1 for side in sides)",
        "freedom = sum(len(side) for side in sides)",
        SIGNIFICANCE,
    ),
    Fault(
        "reports/regression/significance.py",
        "PROMPT_SEED_SD**2 / num_image_prompts if",
        "PROMPT_SEED_SD**2 if",
        SIGNIFICANCE,
    ),
    Fault(
        "reports/regression/significance.py",
        "(images.high - images.value) ** 2 + seeds_half2",
        "(images.high - images.value) ** 2",
        SIGNIFICANCE,
    ),
    # the gate: what is compared, and what is said not to be
    Fault(
        "reports/regression/checks.py",
        "if corrected > FAMILY_ALPHA:",
        "if (check.p_value or 0) > FAMILY_ALPHA:",
        SIGNIFICANCE,
    ),
    Fault(
        "reports/regression/checks.py",
        'weights = [1 / parts[check.part == "category"] for',
        "weights = [1.0 for",
        SIGNIFICANCE,
    ),
    Fault("reports/regression/checks.py", " == check.higher_is_better", "", SIGNIFICANCE),
    Fault(
        "reports/regression/checks.py",
        "keys = dict.fromkeys(key for run in baseline",
        "keys = dict.fromkeys(key for run in current",
        f"{GATE}::test_a_suite_or_cost_that_vanished_is_not_compared",
    ),
    Fault(
        "reports/regression/checks.py",
        "yield replace(blank, outcome=NOT_COMPARED, why",
        "yield replace(blank, why",
        f"{GATE}::test_a_suite_or_cost_that_vanished_is_not_compared",
    ),
    Fault(
        "reports/regression/checks.py",
        '"models", "thresholds", "resampled")',
        '"models", "resampled")',
        f"{GATE}::test_a_score_of_other_prompts_or_another_judge_is_not_compared",
    ),
    Fault(
        "reports/regression/checks.py",
        "for run in (*baseline[1:], *current):\n        if found",
        "for run in current:\n        if found",
        f"{GATE}::test_a_seed_of_the_baseline_that_was_judged_otherwise_is_not_compared",
    ),
    Fault(
        "reports/regression/checks.py",
        'subject != "source" and first != other',
        "first != other",
        f"{GATE}::test_a_source_has_no_spread_of_transfer_seeds",
    ),
    Fault(
        "reports/regression/checks.py",
        "if None in hashes:",
        "if hashes == [None, None]:",
        f"{GATE}::test_frozen_blocks_of_which_one_hash_is_missing_are_not_compared",
    ),
    Fault(
        "reports/regression/checks.py",
        "and not any(alarms(run) for run in baseline)",
        "and any(alarms(run) for run in baseline)",
        f"{GATE}::test_a_new_alarm_and_a_changed_frozen_block_are_worse",
    ),
    Fault(
        "reports/regression/checks.py",
        'for what in ("family", "world", "size"):',
        'for what in ("family", "world"):',
        f"{GATE}::test_another_size_is_refused",
    ),
    Fault(
        "reports/regression/costs.py",
        '"batch_size", "dtype", "device_type"',
        '"batch_size", "device_type"',
        f"{GATE}::test_a_cost_in_another_dtype_is_another_cost",
    ),
    Fault(
        "reports/regression/costs.py",
        "if ratio < 1 / factor",
        "if ratio < factor",
        f"{GATE}::test_amounts_are_compared_by_factor",
    ),
    Fault(
        "reports/regression/costs.py",
        "if len(machines) > 1:",
        "if len(machines) > 2:",
        f"{GATE}::test_latency_of_another_machine_is_not_compared_and_repeats_are_tested",
    ),
    # the gate: what a baseline keeps
    Fault(
        "reports/regression/baseline.py",
        '[row for row in run.log if "alarm" in row] or run.log[-1:]',
        "run.log[-1:]",
        f"{BASELINE}::test_alarms_are_kept",
    ),
    Fault(
        "reports/regression/baseline.py",
        '"generation", "checks")',
        '"generation", "checks", "thresholds")',
        f"{BASELINE}::test_a_baseline_file_stands_for_its_runs",
    ),
    Fault(
        "reports/regression/baseline.py",
        '[row["value"] for row in _sorted(scored)]',
        '[row["value"] for row in scored.rows]',
        f"{BASELINE}::test_the_order_of_score_rows_does_not_matter",
    ),
    Fault(
        "reports/regression/baseline.py",
        '["rows"] != rows:',
        '["title"] != title:',
        f"{BASELINE}::test_seeds_that_were_asked_other_prompts_are_no_baseline",
    ),
    Fault(
        "reports/regression/baseline.py",
        "if members[0].recipe_name == current[0].recipe_name]",
        "if members]",
        f"{BASELINE}::test_of_several_recipes_the_one_of_the_same_name_is_compared",
    ),
    # pictures
    Fault("l2p/pictures.py", "if width * height > max_pixels:", "if width > max_pixels:", PICTURES),
    Fault("l2p/pictures.py", "        ImageOps.exif_transpose(image, in_place=True)\n", "", PICTURES),
    Fault("l2p/pictures.py", "Orientation, 1) >= 5", "Orientation, 1) >= 2", PICTURES),
    Fault("l2p/pictures.py", 'and "BGR" not in layout', 'and "B" not in layout', PICTURES),
    Fault(
        "l2p/pictures.py",
        '.rpartition("/")[2].startswith',
        ".startswith",
        "tests/l2p/test_corpus.py::test_the_files_of_other_systems_in_a_shard_are_ignored",
    ),
    # tables
    Fault("l2p/tables.py", '"utf-8-sig" if line == 1 else "utf-8"', '"utf-8"', TABLES),
    Fault("l2p/tables.py", 'newline=""), strict=True), 1', 'newline="")), 1', TABLES),
    Fault("l2p/tables.py", "if len(found) < len(pairs):", "if False:", TABLES),
    Fault("l2p/tables.py", "parse_constant=_refuse_constant, ", "", TABLES),
    Fault("l2p/tables.py", "header.count(name) > 1", "header.count(name) > 2", TABLES),
    # the conversion
    Fault(
        "l2p/conversion/delta.py",
        "if header.source_sha256 not in (None, found):",
        "if False:",
        f"{CONVERSION}::test_a_delta_on_another_source_is_refused_whatever_the_precision",
    ),
    Fault(
        "l2p/conversion/delta.py",
        "lacking = sorted(set(header.tensors or ()) - held.keys())",
        "lacking: list[str] = []",
        f"{CONVERSION}::test_a_delta_that_lacks_one_tensor_or_holds_nan_is_refused",
    ),
    Fault(
        "l2p/conversion/delta.py",
        "t.to(torch.bfloat16) if t.is_floating_point() else t",
        "t",
        f"{CONVERSION}::test_a_delta_on_another_source_is_refused_whatever_the_precision",
    ),
    Fault(
        "l2p/conversion/start.py",
        "xx + strength * torch.eye",
        "xx + 1e-6 * torch.eye",
        f"{CONVERSION}::test_ridge_finds_a_linear_map_and_a_strong_one_amplifies_less_noise",
    ),
    Fault(
        "l2p/conversion/start.py",
        "projection.bias.copy_(weight.float().cpu() @ fit.bias + bias.float().cpu())",
        "projection.bias.copy_(bias.float().cpu())",
        f"{CONVERSION}::test_the_fitted_projection_stands_for_encoder_and_source_projection",
    ),
    Fault(
        "l2p/conversion/start.py",
        "bad = not_finite((name, tensors[name].read()) for name in shared)",
        "bad: list[str] = []",
        f"{RELEASES}::test_an_8k_model_starts_from_a_4k_one",
    ),
    Fault(
        "l2p/conversion/release.py",
        '".to_qkv.": (".to_q.", ".to_k.", ".to_v.")',
        '".to_qkv.": (".to_k.", ".to_q.", ".to_v.")',
        f"{RELEASES}::test_diffusers_own_fused_projections_are_taken_apart",
    ),
    Fault(
        "l2p/conversion/release.py",
        "if (bad or missing) and not allow_partial:",
        "if bad and not allow_partial:",
        f"{RELEASES}::test_a_release_with_a_hole_is_refused_by_name_unless_that_is_wanted",
    ),
    Fault(
        "l2p/conversion/release.py",
        "merged = [name for name in tensors if name not in bad]",
        "merged = list(tensors)",
        f"{RELEASES}::test_a_release_with_a_hole_is_refused_by_name_unless_that_is_wanted",
    ),
    Fault(
        "l2p/conversion/release.py",
        "value if keep_dtypes else value.to(own[name].dtype)",
        "value",
        f"{RELEASES}::test_a_mixed_file_with_only_trained_tensors_is_cast_and_merged_by_key",
    ),
    Fault("l2p/conversion/describe.py", " if file not in in_shards", "", f"{RELEASES}::test_shards_are_counted_once"),
)


def room_of(path: str) -> str:
    """The tests of a file's whole room."""
    return {"l2p": "tests/l2p", "bench": "tests/bench", "reports": "tests/reports"}[path.split("/")[0]]


def passes(folder: Path, tests: str, *, keep_bytecode: bool = False) -> bool:
    """Whether the tests pass in a copy, in a process split off this one, so that libraries are loaded once.

    keep_bytecode: of a copy without a fault, whose tests are shown, so that the runs with one need not compile all.
    """
    missing = [name for name in tests.split() if not (folder / name.partition("::")[0]).exists()]
    if missing:
        raise SystemExit(f"{missing} are not there: mend the list")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.chdir(folder)
            sys.path[0] = str(folder)
            sys.dont_write_bytecode = not keep_bytecode
            os.environ |= {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
            if not keep_bytecode:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, 1)
                os.dup2(nowhere, 2)
            status = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests.split()])
        finally:
            os._exit(int(status))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def outcome(folder: Path, fault: Fault, ask_room: bool) -> str:
    """ "caught", "caught by the room's other tests" or "survived"; the copy is as it was afterwards."""
    path = folder / fault.path
    text = path.read_text("utf-8")
    if text.count(fault.before) < 1:
        raise SystemExit(f"{fault.path} has no {fault.before!r} any more: mend the list")
    path.write_text(text.replace(fault.before, fault.after), "utf-8")
    try:
        if not passes(folder, fault.tests):
            return "caught"
        if not ask_room or passes(folder, room_of(fault.path)):
            return "survived"
        return "caught by the room's other tests"
    finally:
        path.write_text(text, "utf-8")


def main() -> None:
    """Plant every fault and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[""], help="faults of files whose path begins so")
    parser.add_argument("--named-only", action="store_true", help="ask the tests that a fault names, never the room's")
    given = parser.parse_args()
    for library in LIBRARIES:
        import_module(library)
    rows, faults = [], [fault for fault in FAULTS if fault.path.startswith(tuple(given.only))]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "copy"
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*LEFT_OUT))
        shutil.copytree(ROOT / "docs", folder / "docs")
        asked = " ".join(dict.fromkeys(name for fault in faults for name in fault.tests.split()))
        if not passes(folder, asked, keep_bytecode=True):
            raise SystemExit(f"{asked} fails without any fault: mend that first")
        for number, fault in enumerate(faults, 1):
            started = time.monotonic()
            result = outcome(folder, fault, ask_room=not given.named_only)
            rows.append((fault, result))
            print(
                f"{number}/{len(faults)} {result}, {time.monotonic() - started:.0f} s: {fault.path}: {fault.after}",
                flush=True,
            )
            given.out.write_text(table(rows), "utf-8")


def table(rows: list[tuple[Fault, str]]) -> str:
    """The outcomes as Markdown."""
    caught = sum(result != "survived" for _, result in rows)
    lines = [
        f"{caught} of {len(rows)} faults were caught ({caught / len(rows):.0%}).",
        "",
        "| file | fault | outcome |",
        "|---|---|---|",
    ]
    for fault, result in rows:
        cell = " ".join(f"`{fault.before}` → `{fault.after}`".split()).replace("|", "\\|")
        lines.append(f"| {fault.path} | {cell} | {result} |")
    return "# Faults planted one at a time\n\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
