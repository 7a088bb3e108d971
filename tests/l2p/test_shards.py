"""WebDataset shards: what is written comes back, and whatever is wrong with a shard is told by shard and member."""

import io
import pickle
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from l2p.__main__ import main
from l2p.corpora import list_corpus
from l2p.corpora.shards import read_shard, write_shard
from l2p.corpus import load_corpus
from l2p.corpus_report import inspect_corpus


def png(level: int, size: tuple[int, int] = (8, 8)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (level, 0, 0)).save(file, "PNG")
    return file.getvalue()


def sample(level: int, **parts: bytes) -> tuple[str, dict[str, bytes | Path]]:
    members: dict[str, bytes | Path] = {".png": png(level), ".txt": f"level {level}".encode()}
    return f"{level:04d}", members | {f".{name}": content for name, content in parts.items()}


def write_members(path: Path, *members: tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def test_a_written_shard_is_read_back_and_its_bytes_depend_on_its_samples_alone(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(png(0))
    samples = [
        ("0000", {".png": tmp_path / "0.png", ".txt": "ein Löwe".encode()}),
        sample(7, json=b'{"category": "N/A/x"}'),
    ]
    for name in ("a.tar", "b.tar"):
        write_shard(tmp_path / name, samples)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.png", "a.tar", "b.tar"]
    first, second = read_shard(tmp_path / "a.tar")
    assert (first.text, first.category, first.source()) == ("ein Löwe", None, png(0))
    assert (second.text, second.category, second.source()) == ("level 7", "N/A/x", png(7))
    assert (second.name, second.shard) == ("a.tar/0007.png", "a.tar")


def test_other_systems_files_and_members_of_other_kinds_are_passed_over_unopened(tmp_path: Path) -> None:
    marker = tmp_path / "opened"

    class Bomb:
        def __reduce__(self):
            return Path.touch, (marker,)

    bomb = pickle.dumps(Bomb())
    members = [
        ("a.png", png(1)),
        ("a.txt", b"one"),
        ("a.pkl", bomb),
        ("a.pth", bomb),
        (".DS_Store", b"x"),
        ("__M/._a.png", b"x"),
    ]
    shard = write_members(tmp_path / "a.tar", *members)
    (tmp_path / "._a.tar").write_bytes(b"no tar")
    assert [item.text for item in list_corpus(tmp_path).items] == ["one"] and load_corpus(shard).texts == ["one"]
    assert inspect_corpus(shard).broken == [] and not marker.exists()
    pickle.loads(bomb)
    assert marker.exists()  # it would have been seen


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ([("a.png", png(1)), ("a.pkl", pickle.dumps("one"))], "a.png has neither a .txt nor a .json caption"),
        ([("../a.png", png(1)), ("../a.txt", b"one")], "the member '../a.png' lies outside"),
        ([("x/../../a.png", png(1))], "lies outside"),
        ([("/etc/a.png", png(1))], "the member '/etc/a.png' lies outside"),
        ([("../.a.png", png(1))], "lies outside"),
        ([("a.png", png(1)), ("a.jpg", png(2)), ("a.txt", b"one")], "a.png is one of several pictures of its key"),
        ([("a.png", png(1)), ("a.txt", b"one"), ("b.txt", b"two"), ("b.avif", b"x")], "b has a caption and no picture"),
        ([("a.png", png(1)), ("a.json", b'{"text": 3}')], "a.json: the caption must be text; it is 3"),
        ([("a.png", png(1)), ("a.json", b'{"text": ')], "a.json is not valid JSON"),
        ([("a.png", png(1)), ("a.txt", b"\xff")], "a.txt is not UTF-8"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_member_is_told_with_its_shard(tmp_path: Path, members: list, told: str) -> None:
    write_members(tmp_path / "a.tar", *members)
    with pytest.raises(ValueError, match=f"a.tar.*{told}"):
        load_corpus(tmp_path)


def test_a_text_goes_before_a_json_and_a_json_alone_tells_the_prompt(tmp_path: Path) -> None:
    rows = [
        ("a.png", png(1)),
        ("a.txt", b"text"),
        ("a.json", b'{"seed": 3}'),
        ("b.json", b'{"prompt": "json"}'),
        ("b.png", png(2)),
    ]
    assert load_corpus(write_members(tmp_path / "a.tar", *rows)).texts == ["text", "json"]


def test_a_link_in_a_shard_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        member = tarfile.TarInfo("a.png")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)
    with pytest.raises(ValueError, match="a.tar: the member 'a.png' is a link"):
        load_corpus(tmp_path)


def test_a_shard_that_is_cut_anywhere_is_told(tmp_path: Path) -> None:
    """At each block, in the middle of one, behind the last picture: there are never fewer images without a word."""
    write_shard(tmp_path / "whole.tar", [sample(i) for i in range(3)])
    whole, cut = (tmp_path / "whole.tar").read_bytes(), tmp_path / "cut" / "a.tar"
    cut.parent.mkdir()
    end = 3 * 4 * 512
    assert not any(whole[end:])
    for size in [*range(512, end + 1, 512), *range(700, end, 1024)]:
        cut.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"a.tar is cut short or damaged .*000\d\.(png|txt)"):
            load_corpus(cut.parent)
    assert main(["inspect-corpus", str(cut)]) == 2
    cut.write_bytes(whole[: end + 1024])
    assert len(load_corpus(cut)) == 3  # the padding of some writers is shorter


def test_what_is_no_plain_single_tar_is_told(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", [sample(1)])
    whole, other = (tmp_path / "a.tar").read_bytes(), tmp_path / "b.tar"
    with tarfile.open(other, "w:gz") as archive:
        archive.add(tmp_path / "a.tar", "x.txt")
    with pytest.raises(ValueError, match="b.tar is no plain tar .*unpack it if it is compressed"):
        load_corpus(other)
    other.write_bytes(whole + whole)
    with pytest.raises(ValueError, match="b.tar goes on behind its end mark, after 0001.txt"):
        load_corpus(other)
    other.write_bytes(b"")
    with pytest.raises(ValueError, match="b.tar is no plain tar"):
        load_corpus(other)
    (tmp_path / "a.zip").write_bytes(b"PK")
    with pytest.raises(FileNotFoundError, match="a.zip, which is a file; give a folder, a plain .tar shard"):
        load_corpus(tmp_path / "a.zip")


def test_unreadable_pictures_and_other_sizes_are_told_with_shard_and_member(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", [sample(1), sample(2)])
    write_shard(tmp_path / "b.tar", [sample(3), ("0004", {".png": png(4)[:50], ".txt": b"cut"})])
    with pytest.raises(ValueError, match=r"1 of 4 images .* b.tar/0004.png \(unreadable"):
        load_corpus(tmp_path)
    corpus = load_corpus(tmp_path, allow_missing=True)
    assert len(corpus) == 3 and [name for name, _ in corpus.rejected] == ["b.tar/0004.png"]
    write_shard(tmp_path / "b.tar", [("0004", {".png": png(4, (10, 6)), ".txt": b"wide"})])
    with pytest.raises(ValueError, match="b.tar/0004.png has 6 x 10 pixels, a.tar/0001.png 8 x 8; give a resolution"):
        load_corpus(tmp_path)


def test_inspect_tells_of_shards_what_it_tells_of_folders(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    animals = b'{"category": "Nature/Animals/fox"}'
    write_shard(tmp_path / "a.tar", [sample(1, json=animals), sample(2, json=animals)])
    write_shard(
        tmp_path / "b.tar",
        [("0009", {".png": png(1), ".txt": b"a photo of a cat"}), ("0010", {".png": b"x", ".txt": b"x"})],
    )
    (tmp_path / "known.txt").write_text("a photo of a cat\n")
    report = inspect_corpus(tmp_path, [tmp_path / "known.txt"])
    assert (report.num_images, report.num_prompts, report.num_shards) == (4, 4, 2)
    assert report.sizes == {(8, 8): 3} and report.categories == {"Nature/Animals": 2}
    assert report.same_images == [["a.tar/0001.png", "b.tar/0009.png"]]
    assert [name for name, _ in report.broken] == ["b.tar/0010.png"]
    assert list(report.overlaps.values()) == [[("a photo of a cat", "a photo of a cat")]]
    assert main(["inspect-corpus", str(tmp_path)]) == 1 and "shards: 2" in capsys.readouterr().out
