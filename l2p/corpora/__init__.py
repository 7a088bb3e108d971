"""What a corpus consists of, read from every layout that users hold; pictures are opened elsewhere (`l2p.corpus`)."""

from __future__ import annotations

from pathlib import Path

from l2p.corpora.items import CorpusItem, Listing
from l2p.corpora.shards import read_shard
from l2p.corpora.tables import read_csv, read_jsonl
from l2p.pictures import is_hidden

__all__ = ["CorpusItem", "Listing", "list_corpus"]


def list_corpus(path: str | Path) -> Listing:
    """The items of a corpus in stored order, none of their pictures opened.

    path: a folder with metadata.jsonl, with WebDataset .tar shards (or one such file), with one CSV table, saved by
    `datasets`, or in parquet files or folders of splits; or the hub id owner/name of a dataset, which is streamed.
    Raises FileNotFoundError where there is none of these, ValueError for a table, shard or dataset that is not whole.
    """
    folder = Path(path)
    if folder.suffix == ".tar" and folder.is_file():
        return Listing(items=read_shard(folder))
    if not folder.exists() and _may_be_hub_id(path):
        return _datasets().stream_dataset(str(path))
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "is not there"
        raise FileNotFoundError(
            f"no corpus at {folder}, which {what}; give a folder, a plain .tar shard or a hub id owner/name"
        )
    return _list_folder(folder)


def _list_folder(folder: Path) -> Listing:
    if (folder / "metadata.jsonl").is_file():
        return Listing(items=list(read_jsonl(folder / "metadata.jsonl")))
    if shards := _files(folder, "*.tar"):
        return Listing(items=[item for shard in shards for item in read_shard(shard)])
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        return _datasets().saved_dataset(folder)
    tables = _files(folder, "*.csv")
    if len(tables) == 1:
        return Listing(items=list(read_csv(tables[0])))
    if not tables and (_files(folder, "**/*.parquet") or _files(folder, "*/metadata.*")):
        return _datasets().stream_dataset(str(folder))
    raise FileNotFoundError(
        f"{folder} holds neither metadata.jsonl, nor one CSV table, nor .tar shards, nor a dataset of the library "
        f"`datasets`; found {len(tables)} tables"
    )


def _may_be_hub_id(path: str | Path) -> bool:
    """As `l2p.sources.source_folder` has it: owner/name, no path that is absolute or begins with a dot."""
    return str(path).count("/") == 1 and not str(path).startswith((".", "~", "/"))


def _datasets():  # type: ignore[no-untyped-def]
    from l2p.corpora import hub

    return hub


def _files(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if not is_hidden(path.name))
