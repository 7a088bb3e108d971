"""A folder of pictures as a set: which prompt a name is of."""

import pytest
from PIL import Image

from bench.sets import by_prompt, names_sha256, read_set, set_sha256
from l2p.errors import InputError


def folder(path, names, level=0):
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (level,) * 3).save(path / name)
    return path


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("a.png", "a_0.png"), r"a\.png and a_0\.png are both picture 0 of a: name the pictures of one prompt"),
        (("a_0.png", "a_00.png"), r"a_0\.png and a_00\.png are both picture 0 of a"),
        (("a_0.png", "a/0.png"), r"a/0\.png and a_0\.png are both picture 0 of a"),
        (("a/samples/0001.png", "a_1.jpg"), r"a/samples/0001\.png and a_1\.jpg are both picture 1 of a"),
    ],
)
def test_two_files_that_are_one_picture_are_named(tmp_path, names, words):
    with pytest.raises(InputError, match=words):
        by_prompt(read_set(folder(tmp_path, names)))


def test_a_known_id_is_a_prompt_of_its_own(tmp_path):
    found = by_prompt(read_set(folder(tmp_path, ("a.png", "a_0.png"))), ("a", "a_0"))
    assert [(sample.prompt_id, sample.index) for sample in found] == [("a", 0), ("a_0", 0)]


def test_names_are_hashed_in_order_and_pictures_with_their_bytes(tmp_path):
    first, other = (read_set(folder(tmp_path / str(level), ("a.png", "b.png"), level)) for level in (0, 9))
    assert names_sha256(first.samples) == names_sha256(other.samples) != names_sha256(first.samples[::-1])
    assert set_sha256(first) != set_sha256(other)
