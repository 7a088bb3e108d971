"""What turns pictures into features: FID's Inception, CLIP's image tower, or your own `package.module:function`.

An extractor is called with pixels [B, 3, side, side], float 0..255, and gives features [B, D], or a pair of features
and class logits [B, C] (which IS needs). Its `side` is a number of pixels, its `passport` says what it is. Weights are
the user's: a file (safetensors, or what torch.load reads with weights_only), or a file on the hub, ORG/NAME:FILE.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.judges import Judge, JudgeError, as_judge, load_judge
from bench.named import load_function, refuse_missing_path
from bench.passport import NOT_STATED, file_sha256, weights_sha256
from l2p.errors import InputError

INCEPTION_SIDE = 299
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
"""torch-fidelity's release file, from TensorFlow's graph of 2015; its name ends in the first digits of its SHA-256."""
KNOWN_PREFIX = "6726825d"
CHUNK = 32  # squares that a network is given at once


def check_extractor_name(name: str, weights: str) -> None:
    """Raise what `load_extractor` would for a name that names nothing, and for missing weights, without loading it."""
    if name in EXTRACTORS:
        if not weights:
            raise InputError(f"--extractor {name} needs --weights: {NEEDED[name]}")
        if not _on_hub(weights):
            refuse_missing_path(weights, NEEDED[name])
        return
    if weights:
        raise InputError(f"--weights is for {' and '.join(EXTRACTORS)}; {name!r} brings its own.")
    if ":" not in name:
        raise InputError(f"{name!r} is neither {' nor '.join(EXTRACTORS)} nor a package.module:function.")
    load_function(name)


def load_extractor(name: str, weights: str = "", device: str = "cpu") -> Judge:
    """An extractor by name; InputError for an unknown one and for weights that do not fit, OSError without any."""
    check_extractor_name(name, weights)
    if name in EXTRACTORS:
        return EXTRACTORS[name](weights, device)
    return as_extractor(load_judge(name), name)


def as_extractor(given: Callable[..., Any], name: str = NOT_STATED) -> Judge:
    """An extractor of the user's own; JudgeError where it does not say its `side`."""
    judge = as_judge(given, {"name": name, "weights": NOT_STATED})
    if not isinstance(judge.side, int) or judge.side < 1:
        raise JudgeError(
            f"the extractor {name} must say the side of the squares it takes, `side`; it is {judge.side!r}"
        )
    return judge


def load_inception(weights: str, device: str = "cpu") -> Judge:
    """FID's Inception-v3 as torch-fidelity builds it, with weights in torch-fidelity's names."""
    path = weights_file(weights)
    passport = {"name": "inception-v3-compat", "library": "torch-fidelity", "weights": path.name} | _hash(path)
    return inception(read_weights(path), device, passport)


def inception(state_dict: Mapping[str, Tensor], device: str, passport: Mapping[str, Any]) -> Judge:
    """The network of these tensors, normalisation folded into its convolutions; InputError where they do not fit."""
    from torch_fidelity.feature_extractor_inceptionv3 import BasicConv2d, FeatureExtractorInceptionV3

    buffer = io.BytesIO()
    torch.save(dict(state_dict), buffer)  # torch-fidelity reads with pickle: only what was read safely before
    buffer.seek(0)
    try:
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=buffer)
    except RuntimeError as error:
        raise InputError(f"these weights are not those of torch-fidelity's Inception: {str(error)[:300]}") from error
    for module in network.modules():
        if isinstance(module, BasicConv2d):  # same result, a third less time on a processor
            module.conv = torch.nn.utils.fuse_conv_bn_eval(module.conv, module.bn)
            module.bn = nn.Identity()
    body = nn.Sequential(*list(network.children())[:-1]).to(torch.device(device))
    body = body.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    classes = network.fc.weight.T.to(device)  # [2048, 1008]; IS takes the logits without their bias

    def extract(pixels: Tensor) -> tuple[Tensor, Tensor]:
        inputs = ((pixels.to(device) - 128) / 128).contiguous(memory_format=torch.channels_last)
        features = body(inputs).flatten(1)
        return features, features @ classes

    return Judge(ask=extract, passport={**passport, "dtype": "float32"}, side=INCEPTION_SIDE)


def load_clip(weights: str, device: str = "cpu") -> Judge:
    """CLIP's image tower and projection, a folder or hub id in transformers' format (CMMD's: ViT-L/14 at 336 px)."""
    from bench.clip.models import image_tower

    return image_tower(weights, device)


NEEDED = {
    "inception": f"torch-fidelity's {INCEPTION_FILE}, a copy as safetensors, or a file on the hub as ORG/NAME:FILE",
    "clip": "a folder in transformers' format, or a hub id such as openai/clip-vit-large-patch14-336",
}
EXTRACTORS: dict[str, Callable[[str, str], Judge]] = {"inception": load_inception, "clip": load_clip}
"""The extractors that are built in."""


def run_extractor(extractor: Judge, pixels: Tensor) -> dict[str, Tensor]:
    """`features` [B, D] and, where it gives them, `logits` [B, C] of pixels [B, 3, side, side]; on the CPU, float32.

    JudgeError for anything else, and for numbers that are not finite.
    """
    with torch.inference_mode():
        parts = [_checked(extractor(chunk), len(chunk)) for chunk in pixels.split(CHUNK)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _checked(found: Any, count: int) -> dict[str, Tensor]:
    named = dict(zip(("features", "logits"), found if isinstance(found, tuple) else (found,), strict=False))
    checked = {name: torch.as_tensor(value).detach().float().cpu() for name, value in named.items()}
    for name, value in checked.items():
        if value.ndim != 2 or len(value) != count:
            raise JudgeError(f"the extractor must give {name} [{count}, D] of {count} squares; got {list(value.shape)}")
        if not value.isfinite().all():
            raise JudgeError(f"the extractor gave {name} that are not finite numbers")
    return checked


def weights_file(name: str) -> Path:
    """A file of weights: a path, or ORG/NAME:FILE fetched from the hub or its cache; FileNotFoundError, InputError."""
    if not _on_hub(name):
        refuse_missing_path(name, "a file of weights")
        path = Path(name)
        if not path.is_file():
            raise FileNotFoundError(f"{name} is no file of weights; give one, or ORG/NAME:FILE of the hub")
        return path
    from huggingface_hub import hf_hub_download

    repository, _, file = name.partition(":")
    try:
        return Path(hf_hub_download(repository, file))
    except Exception as error:  # the hub has many of its own; in all cases the file cannot be had
        raise InputError(f"{name} cannot be fetched from the hub ({type(error).__name__}: {error})") from error


def _on_hub(name: str) -> bool:
    repository, _, file = name.partition(":")
    return bool(file) and repository.count("/") == 1 and not Path(name).exists()


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, by name: safetensors, or torch.load with weights_only. InputError for anything else."""
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise nearly anything on a file that is not theirs
        raise InputError(f"{path} holds no weights that are safe to read ({type(error).__name__}: {error})") from error
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise InputError(f"{path} holds no state dict: names and tensors are needed")
    return dict(state)


def _hash(path: Path) -> dict[str, Any]:
    sha256 = file_sha256(path)
    return {"sha256": sha256, "published": sha256.startswith(KNOWN_PREFIX)}


def random_inception(seed: int = 0) -> Judge:
    """FID's network with random weights, to try with: `--extractor bench.fidelity.extractors:random_inception`.

    Its figures are no scores; the passport says what it is.
    """
    state = random_inception_weights(seed)
    return inception(state, "cpu", {"name": "inception-v3, random weights", "sha256": weights_sha256(state)})


def random_inception_weights(seed: int = 0) -> dict[str, Tensor]:
    """Seeded random tensors of the Inception's shapes, scaled so that features spread."""
    from torch_fidelity import feature_extractor_inceptionv3 as upstream

    class Unloaded(upstream.FeatureExtractorInceptionV3):
        def load_state_dict(self, *_: Any, **__: Any) -> Any:
            """Nothing is loaded: what the layers start from is what is wanted."""

    buffer = io.BytesIO()
    torch.save({}, buffer)
    buffer.seek(0)
    torch.manual_seed(seed)
    network = Unloaded("inception-v3-compat", ["2048"], feature_extractor_weights_path=buffer)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.bias, -0.1, 0.1)
    return network.state_dict()
