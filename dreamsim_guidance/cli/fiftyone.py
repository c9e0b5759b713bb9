"""`dreamsim-guidance fiftyone`: an index to FiftyOne, and a selection made there back."""

from __future__ import annotations

import csv
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, Positional, subcommand

from dreamsim_guidance.cli.outputs import check_file

__all__ = ["Export", "FiftyOneCommand", "Import"]


@dataclass(frozen=True)
class Export:
    """Write an index as a FiftyOne dataset: pictures, embeddings, and a similarity run that its App offers for sorting.

    A second index over the same pictures, made by another metric, adds its similarity to the same dataset.
    """

    index: Positional[Path]
    """An index that `embed` made."""
    dataset: str | None = None
    """Name of the dataset in FiftyOne's database; needs the extra fiftyone."""
    folder: Path | None = None
    """Folder for the dataset in FiftyOne's JSON format instead, which needs no extra; FiftyOne imports it."""
    key: str | None = None
    """Under which the App lists the similarity; by default dreamsim_ and the name of the metric."""
    pictures: Path | None = None
    """Folder to which pictures inside shards and tables are written as files; by default they are left out."""
    duplicates: float | None = None
    """Also number the groups of near-duplicates: pictures up to this distance apart."""

    def __call__(self) -> int:
        from dreamsim_guidance.retrieval.fiftyone_dataset import fiftyone_export
        from dreamsim_guidance.retrieval.fiftyone_folder import write_fiftyone_folder
        from dreamsim_guidance.retrieval.index import Index

        if (self.dataset is None) == (self.folder is None):
            raise ValueError("give either --dataset, a name in FiftyOne's database, or --folder, for its JSON format.")
        index = Index.open(self.index)
        if self.dataset is not None:
            written = fiftyone_export(index, self.dataset, self.key, self.pictures, self.duplicates)
            hint = shlex.join(["fiftyone", "app", "launch", written.place])
        else:
            assert self.folder is not None
            name = self.folder.resolve().name
            written = write_fiftyone_folder(index, self.folder, name, self.key, self.pictures, self.duplicates)
            words = ["--name", name, "--dataset-dir", str(self.folder), "--type", "fiftyone.types.FiftyOneDataset"]
            hint = shlex.join(["fiftyone", "datasets", "create", *words])
        print(f"{written.place}: {written.pictures} pictures, similarity {written.brain_key}")
        print(f"to see it: {hint}", file=sys.stderr)
        if written.left_out:
            print(
                f"{len(written.left_out)} pictures inside shards or tables were left out, first '{written.left_out[0]}'; give "
                "--pictures to write them as files.",
                file=sys.stderr,
            )
        return 0


@dataclass(frozen=True)
class Import:
    """Write the pictures of a FiftyOne dataset, or a selection of them, to a list, which `embed --outside` reads."""

    dataset: Positional[str]
    """A name in FiftyOne's database (needs the extra fiftyone), or a folder in its JSON format."""
    to: Path
    """CSV file for the paths."""
    tag: tuple[str, ...] = ()
    """Only pictures with at least one of these tags."""
    view: str | None = None
    """Only pictures of this saved view, in its order; not for a folder."""

    def __call__(self) -> int:
        from dreamsim_guidance.cli.outputs import write_files
        from dreamsim_guidance.retrieval.fiftyone_dataset import fiftyone_paths
        from dreamsim_guidance.retrieval.fiftyone_folder import read_fiftyone_folder

        check_file(self.to, "--to")
        folder = Path(self.dataset)
        if folder.is_dir():
            if self.view is not None:
                raise ValueError(
                    "a saved view needs the dataset in FiftyOne's database; import the folder there first."
                )
            paths = read_fiftyone_folder(folder, self.tag)
        else:
            paths = fiftyone_paths(self.dataset, self.tag, self.view)
        print(f"{len(paths)} pictures")
        write_files({self.to: lambda file: _write(file, paths)})
        return 0


def _write(file: Path, paths: list[str]) -> None:
    from dreamsim_guidance.files.atomic import writing

    with (
        writing(file) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream,
    ):
        csv.writer(stream).writerows([["path"], *([path] for path in paths)])


@dataclass(frozen=True)
class FiftyOneCommand:
    """Look at an index in FiftyOne, and bring a selection back."""

    command: OmitSubcommandPrefixes[
        OmitArgPrefixes[Annotated[Export, subcommand("export")] | Annotated[Import, subcommand("import")]]
    ]

    def __call__(self) -> int:
        return self.command()
