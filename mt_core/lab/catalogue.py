"""What can be downloaded: files pinned by size and checksum, licences. Downloads nothing."""

from __future__ import annotations

from dataclasses import dataclass

from mt_core.lab.download import RemoteFile

_HUB = "https://huggingface.co/datasets"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A corpus to download.

    kind: "text" (used as it is), "stories" (documents between `<|endoftext|>`), "articles" (Parquet, a row a line of an
    article) or "documents" (Parquet, a row a document); all but "text" become train.jsonl and val.jsonl.
    val_fraction: share of the documents held out, by the hash of their text, where no `val` files exist.
    """

    title: str
    licence: str
    kind: str
    train: tuple[RemoteFile, ...]
    val: tuple[RemoteFile, ...] = ()
    val_fraction: float = 0.0
    note: str = ""

    @property
    def size(self) -> int:
        """Bytes to download."""
        return sum(remote.size for remote in self.train + self.val)


def _file(folder: str, name: str, size: int, sha256: str) -> RemoteFile:
    return RemoteFile(name=name, url=f"{folder}/{name}", size=size, sha256=sha256)


# Sizes and checksums are those of the pinned revision: for the Hugging Face files the published Git LFS object ids.
_STORIES = f"{_HUB}/roneneldan/TinyStories/resolve/f54c09fd23315a6f9c86f9dc80f725de7d8f9c64"
_WIKITEXT = f"{_HUB}/Salesforce/wikitext/resolve/b08601e04326c79dfdd32d625aee71d232d685c3/wikitext-103-raw-v1"
_FINEWEB = f"{_HUB}/HuggingFaceFW/fineweb-edu/resolve/87f09149ef4734204d70ed1d046ddc9ca3f2b8f9/sample/10BT"
_SHAKESPEARE = "https://raw.githubusercontent.com/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e"

_STORIES_VALID = _file(
    _STORIES,
    "TinyStoriesV2-GPT4-valid.txt",
    22_502_601,
    "6874bae9a4c1a4e7edcf0e53b86c17817e9cf881fc75ff2368da457b80c0585d",
)

CATALOGUE: dict[str, Entry] = {
    "tinyshakespeare": Entry(
        title="tinyshakespeare: excerpts of Shakespeare's plays",
        licence="public domain text",
        kind="text",
        train=(
            RemoteFile(
                name="tinyshakespeare.txt",
                url=f"{_SHAKESPEARE}/data/tinyshakespeare/input.txt",
                size=1_115_394,
                sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
            ),
        ),
        note="One plain text file, speeches separated by blank lines; small enough to learn by heart.",
    ),
    "tinystories-small": Entry(
        title="TinyStories, its 27,630 validation stories alone",
        licence="CDLA-Sharing-1.0",
        kind="stories",
        train=(_STORIES_VALID,),
        val_fraction=0.05,
        note="For a laptop: the published validation file, split again. Not comparable with published losses.",
    ),
    "tinystories": Entry(
        title="TinyStories (GPT-4 part): 2.7 million short stories in simple English",
        licence="CDLA-Sharing-1.0",
        kind="stories",
        train=(
            _file(
                _STORIES,
                "TinyStoriesV2-GPT4-train.txt",
                2_227_753_162,
                "6418d412de72888f52b5142c761ac21a582f7d1166f0bfbdb5f03ccfdec90443",
            ),
        ),
        val=(_STORIES_VALID,),
        note="Written by a language model, arXiv 2305.07759. Fluent text from models below 10M parameters.",
    ),
    "wikitext-103": Entry(
        title="WikiText-103 raw: good and featured articles of the English Wikipedia",
        licence="CC BY-SA 3.0 and GFDL",
        kind="articles",
        train=(
            _file(
                _WIKITEXT,
                "train-00000-of-00002.parquet",
                156_987_808,
                "74da360f23826045b3e6ac6375411fdb15f003030aa74f2596ed08b857cb9212",
            ),
            _file(
                _WIKITEXT,
                "train-00001-of-00002.parquet",
                157_088_770,
                "ba090ac30dbf5461e8dcbdd1a1b8e6f3cf9c2c756d64f0c1220450acd514f720",
            ),
        ),
        val=(
            _file(
                _WIKITEXT,
                "validation-00000-of-00001.parquet",
                657_209,
                "204929b7ff9d6184953f867dedb860e40aa69c078fc1e54b3baaa8fb28511c4c",
            ),
        ),
        note="arXiv 1609.07843. Rows are joined into whole articles; the spaced-out marks (` @-@ `) are left in.",
    ),
    "fineweb-edu": Entry(
        title="FineWeb-Edu, one shard of sample-10BT: educational web pages",
        licence="ODC-By 1.0, and the terms of use of Common Crawl",
        kind="documents",
        train=(
            _file(
                _FINEWEB,
                "013_00000.parquet",
                540_632_672,
                "b393f51fefab26cd6f4c8f65707c1924f6666c4961a0ebebe04bb57f7ec832de",
            ),
        ),
        val_fraction=0.005,
        note="182,101 pages, the last and smallest of 14 shards. Web text: unfiltered for what people write there.",
    ),
}
