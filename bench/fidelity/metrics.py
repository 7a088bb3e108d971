"""The set metrics as pure functions of features; numpy in float64, no model and no picture.

Rows are pictures (or patches of them), columns the extractor's features. What is called `images` is drawn, `reference`
is real. Large sets are taken in blocks, so that no N x N matrix is held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from l2p.errors import InputError

BLOCK = 2048  # rows taken at once where all pairs are needed

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Rows [N, D] and [M, D] in, their kernel [N, M] out."""


@dataclass(frozen=True, kw_only=True)
class Sums:
    """What a mean and a covariance need of some rows: how many, their sum [D], the sum of their products [D, D]."""

    count: int
    total: np.ndarray
    products: np.ndarray

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            count=self.count + other.count, total=self.total + other.total, products=self.products + other.products
        )

    def __sub__(self, other: Sums) -> Sums:
        return Sums(
            count=self.count - other.count, total=self.total - other.total, products=self.products - other.products
        )


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Mean [D] and unbiased covariance [D, D] of `count` rows."""

    count: int
    mean: np.ndarray
    covariance: np.ndarray


def sums_of(features: np.ndarray) -> Sums:
    """Sums of features [N, D], in float64."""
    rows = features.astype(np.float64)
    return Sums(count=len(rows), total=rows.sum(0), products=rows.T @ rows)


def moments_of(sums: Sums) -> Moments:
    """Mean and covariance (divided by N - 1); InputError for fewer than two rows."""
    if sums.count < 2:
        raise InputError(f"a covariance needs 2 pictures at least; there is {sums.count}")
    mean = sums.total / sums.count
    covariance = (sums.products - sums.count * np.outer(mean, mean)) / (sums.count - 1)
    return Moments(count=sums.count, mean=mean, covariance=covariance)


def root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric square root [D, D] of a covariance; what rounding made negative counts as 0."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


def frechet_distance(images: Moments, reference: Moments, reference_root: np.ndarray | None = None) -> float:
    """FID (Heusel et al. 2017, equation 6): |m - m_r|^2 + Tr(C + C_r - 2 (C C_r)^(1/2)).

    The trace of the root is that of the symmetric R C R, R = C_r^(1/2) (`reference_root`, where it is known), whose
    eigenvalues are real and not negative also where a covariance is singular: never NaN.
    """
    r = root(reference.covariance) if reference_root is None else reference_root
    eigenvalues = np.linalg.eigvalsh(r @ images.covariance @ r)
    shift = images.mean - reference.mean
    spread = np.trace(images.covariance) + np.trace(reference.covariance)
    return float(shift @ shift + spread - 2 * np.sqrt(eigenvalues.clip(0)).sum())


def frechet_distance_of_rows(rows: np.ndarray, products: np.ndarray, reference: Moments) -> float:
    """FID of rows [N, D] that are fewer than their columns, by `products` [N, N], rows C_r rows^T.

    C C_r and the centred products / (N - 1) have the same eigenvalues that are not 0; N x N is the smaller. InputError
    for fewer than two rows.
    """
    if len(rows) < 2:
        raise InputError(f"a covariance needs 2 pictures at least; there is {len(rows)}")
    mean = rows.mean(0)
    centred = products - products.mean(0) - products.mean(1)[:, None] + products.mean()
    eigenvalues = np.linalg.eigvalsh(centred / (len(rows) - 1))
    shift = mean - reference.mean
    spread = np.square(rows - mean).sum() / (len(rows) - 1) + np.trace(reference.covariance)
    return float(shift @ shift + spread - 2 * np.sqrt(eigenvalues.clip(0)).sum())


def inception_score(logits: np.ndarray, *, splits: int = 10, seed: int = 2020) -> float:
    """IS (Salimans et al. 2016): exp of the mean KL of p(y|x) from p(y), the mean over splits of logits [N, C].

    Shuffling and cutting are torch-fidelity's. InputError where there are fewer rows than splits.
    """
    if len(logits) < splits:
        raise InputError(f"an Inception Score of {splits} splits needs {splits} pictures; there are {len(logits)}")
    rows = logits[np.random.RandomState(seed).permutation(len(logits))].astype(np.float64)
    rows = rows - rows.max(1, keepdims=True)
    log_p = rows - np.log(np.exp(rows).sum(1, keepdims=True))  # [N, C]
    edges = [i * len(rows) // splits for i in range(splits + 1)]
    return float(np.mean([_split_score(log_p[low:high]) for low, high in zip(edges, edges[1:], strict=False)]))


def _split_score(log_p: np.ndarray) -> float:
    p = np.exp(log_p)
    return float(np.exp((p * (log_p - np.log(p.mean(0)))).sum(1).mean()))


def kernel_distance(
    images: np.ndarray, reference: np.ndarray, *, subsets: int = 100, subset_size: int = 1000, seed: int = 2020
) -> float:
    """KID (Binkowski et al. 2018): the mean over random subsets of the unbiased MMD^2, kernel (x.y / D + 1)^3.

    Subsets are drawn as torch-fidelity draws them, images first. InputError where a side has fewer rows than a subset.
    """
    if min(len(images), len(reference)) < subset_size:
        raise InputError(
            f"KID's subsets are of {subset_size} pictures; there are {len(images)} images and {len(reference)} "
            "of the reference"
        )
    draw, values = np.random.RandomState(seed), []
    for _ in range(subsets):
        x = images[draw.choice(len(images), subset_size, replace=False)].astype(np.float64)
        y = reference[draw.choice(len(reference), subset_size, replace=False)].astype(np.float64)
        values.append(_unbiased_mmd(x, y))
    return float(np.mean(values))


def _cubic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _unbiased_mmd(x: np.ndarray, y: np.ndarray) -> float:
    m, n = len(x), len(y)
    xx, yy = _cubic(x, x), _cubic(y, y)
    within = (xx.sum() - np.trace(xx)) / (m * (m - 1)) + (yy.sum() - np.trace(yy)) / (n * (n - 1))
    return float(within - 2 * _cubic(x, y).mean())


@dataclass(frozen=True, kw_only=True)
class KernelSums:
    """Sums of a kernel by groups of the images: among them [G, G], its diagonal [G], with the reference [G].

    `counts` [G] are the groups' sizes; the reference's own terms are one number.
    """

    counts: np.ndarray
    among: np.ndarray
    diagonal: np.ndarray
    across: np.ndarray
    reference_term: float
    reference_count: int


def cubic_sums(images: np.ndarray, reference: np.ndarray, groups: np.ndarray) -> KernelSums:
    """KID's kernel summed by groups [N] of the images, the reference's term without its diagonal (unbiased)."""
    n = len(reference)
    among, diagonal = _block_sums(reference, reference, np.zeros(n, int), np.zeros(n, int), _cubic)
    term = float(among[0, 0] - diagonal[0]) / (n * (n - 1))
    return _kernel_sums(images, reference, groups, _cubic, term)


def unbiased_mmd_without(sums: KernelSums, left_out: int | None) -> float:
    """The unbiased MMD^2 of all groups but one (None: of all)."""
    keep = np.arange(len(sums.counts)) != left_out
    m = sums.counts[keep].sum()
    among = sums.among[np.ix_(keep, keep)].sum() - sums.diagonal[keep].sum()
    return float(among / (m * (m - 1)) + sums.reference_term - 2 * sums.across[keep].sum() / (m * sums.reference_count))


CMMD_SIGMA, CMMD_SCALE = 10.0, 1000.0


def _gaussian(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.exp(-_squared_distances(x, y) / (2 * CMMD_SIGMA**2))


def gaussian_sums(images: np.ndarray, reference: np.ndarray, groups: np.ndarray) -> KernelSums:
    """CMMD's kernel summed by groups [N] of the images; features are brought to length 1 first."""
    x, y = _unit(images), _unit(reference)
    n = len(y)
    among, _ = _block_sums(y, y, np.zeros(n, int), np.zeros(n, int), _gaussian)
    return _kernel_sums(x, y, groups, _gaussian, float(among[0, 0]) / n**2)


def cmmd_without(sums: KernelSums, left_out: int | None = None) -> float:
    """CMMD (Jayasumana et al. 2024) of all groups but one (None: of all): MMD^2 x 1000, diagonals counted."""
    keep = np.arange(len(sums.counts)) != left_out
    m = sums.counts[keep].sum()
    among = sums.among[np.ix_(keep, keep)].sum() / m**2
    across = sums.across[keep].sum() / (m * sums.reference_count)
    return float(CMMD_SCALE * (among + sums.reference_term - 2 * across))


def precision_rows(images: np.ndarray, reference: np.ndarray, neighbours: int = 3) -> np.ndarray:
    """Of each image [N] whether it lies in a reference picture's ball; the mean is precision.

    A ball reaches to its picture's `neighbours`-th neighbour (Kynkaanniemi et al. 2019). Recall is this with the sides
    changed. InputError for too few reference pictures.
    """
    if len(reference) <= neighbours:
        raise InputError(f"{neighbours} neighbours need {neighbours + 1} pictures; there are {len(reference)}")
    near = (np.partition(_squared_distances(block, reference), neighbours, 1) for block in _blocks(reference))
    radii = np.concatenate([block[:, neighbours] for block in near])  # squared; a picture is its own nearest
    return np.concatenate([(_squared_distances(block, reference) <= radii).any(1) for block in _blocks(images)])


def _kernel_sums(
    images: np.ndarray, reference: np.ndarray, groups: np.ndarray, kernel: Kernel, reference_term: float
) -> KernelSums:
    among, diagonal = _block_sums(images, images, groups, groups, kernel)
    across, _ = _block_sums(images, reference, groups, np.zeros(len(reference), int), kernel)
    return KernelSums(
        counts=np.bincount(groups),
        among=among,
        diagonal=diagonal,
        across=across[:, 0],
        reference_term=reference_term,
        reference_count=len(reference),
    )


def _block_sums(
    x: np.ndarray, y: np.ndarray, x_groups: np.ndarray, y_groups: np.ndarray, kernel: Kernel
) -> tuple[np.ndarray, np.ndarray]:
    """The kernel summed over pairs of groups [G, H], and over each picture with itself [G] (where y is x)."""
    to_groups = np.eye(y_groups.max() + 1)[y_groups]  # [N, H]
    sums = np.zeros((x_groups.max() + 1, to_groups.shape[1]))
    diagonal, start = np.zeros(len(sums)), 0
    for block in _blocks(x):
        own = x_groups[start : start + len(block)]
        values = np.concatenate([kernel(block, part) for part in _blocks(y)], 1)  # [BLOCK, N]
        np.add.at(sums, own, values @ to_groups)
        if y is x:
            np.add.at(diagonal, own, values[np.arange(len(block)), start + np.arange(len(block))])
        start += len(block)
    return sums, diagonal


def _blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    yield from (rows[start : start + BLOCK].astype(np.float64) for start in range(0, len(rows), BLOCK))


def _squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[N, M] of rows [N, D] and [M, D], not below 0."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    return (np.square(x).sum(1)[:, None] + np.square(y).sum(1) - 2 * x @ y.T).clip(0)


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
