"""AdamW of 8 bits comes from whichever package is installed; without one a sentence says what to install."""

import sys
from types import ModuleType

import pytest
import torch

from l2p.training import eight_bit
from l2p.training.eight_bit import eight_bit_adamw
from l2p.transfer import TransferConfig


def groups():
    return [{"params": [torch.nn.Parameter(torch.ones(2))], "base_lr": 1e-3}]


def test_without_a_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(eight_bit, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install torchao"):
        eight_bit_adamw(groups(), betas=(0.9, 0.999), weight_decay=0.01)


@pytest.mark.parametrize("package", eight_bit.PACKAGES)
def test_the_package_that_is_there_makes_it(monkeypatch, package):
    made = {}
    module = ModuleType(f"{package}.optim")
    module.AdamW8bit = lambda given, **options: made.update(groups=given, options=options) or "the optimizer"
    monkeypatch.setitem(sys.modules, package, ModuleType(package))
    monkeypatch.setitem(sys.modules, f"{package}.optim", module)
    monkeypatch.setattr(eight_bit, "find_spec", lambda name: name if name == package else None)
    given = groups()
    assert eight_bit_adamw(given, betas=(0.9, 0.98), weight_decay=0.02) == "the optimizer"
    assert made == {"groups": given, "options": {"betas": (0.9, 0.98), "weight_decay": 0.02}}


def test_other_numbers_of_bits_are_refused():
    with pytest.raises(ValueError, match="optimizer_bits 4"):
        TransferConfig(optimizer_bits=4)
