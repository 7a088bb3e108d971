"""The tiny source and corpus as fixtures."""

from pathlib import Path

import pytest
from diffusers import FluxPipeline

from tests.tiny import source, write_corpus


@pytest.fixture(scope="session")
def flux_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny FLUX source saved as diffusers saves it."""
    folder = tmp_path_factory.mktemp("flux")
    source().save_pretrained(folder)
    return folder


@pytest.fixture
def flux() -> FluxPipeline:
    """The tiny FLUX source, built anew for each test (faster than loading it)."""
    return source()


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four images of 16 x 16 pixels with two prompts."""
    return write_corpus(tmp_path_factory.mktemp("corpus"))
