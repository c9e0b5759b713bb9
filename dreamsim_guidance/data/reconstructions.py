"""Folders of reconstructions of the same references by several methods, matched by file name without its ending.

targets/cat.png    first/cat.jpg    second/cat.png     three pictures of one reference, "cat"
targets/dog.png    first/dog.jpg                       the second method has none of "dog"
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from dreamsim_guidance.files.pictures import SUFFIXES
from dreamsim_guidance.preprocess import load_image

__all__ = ["Reconstructions", "find_reconstructions"]


@dataclass(frozen=True)
class Reconstructions:
    """Pictures by file stem.

    targets, methods: hold only the stems that a target and at least one method have.
    missing: the stems that each folder lacks, by the method's name, or by "targets".
    """

    targets: dict[str, Path]
    methods: dict[str, dict[str, Path]]
    missing: dict[str, list[str]]

    @property
    def files(self) -> list[Path]:
        return [*self.targets.values(), *(file for pictures in self.methods.values() for file in pictures.values())]

    def complete(self) -> list[str]:
        """Return the references that every method has reconstructed, in order."""
        return [stem for stem in self.targets if all(stem in pictures for pictures in self.methods.values())]

    def check(self, progress: bool = True) -> dict[Path, tuple[int, int]]:
        """Decode every picture once: height and width of each. Raises ValueError that names all that are broken."""
        sizes, broken = {}, []
        for file in tqdm(self.files, desc="reading", unit="image", disable=not progress):
            try:
                height, width = load_image(file).shape[-2:]
                sizes[file] = (height, width)
            except (ValueError, OSError):
                broken.append(file)
        if broken:
            named = ", ".join(f"'{file}'" for file in broken[:10]) + (", ..." if len(broken) > 10 else "")
            raise ValueError(
                f"{len(broken)} of {len(self.files)} pictures cannot be read: {named}; "
                "replace them by complete pictures, or take them out."
            )
        return sizes


def find_reconstructions(targets: Path | str, methods: Sequence[Path | str], least: int = 2) -> Reconstructions:
    """The pictures of `targets` and of each method's folder. A method is called as its folder, or as in "name=folder".

    Raises FileNotFoundError for a missing folder; ValueError for fewer than `least` methods, two methods of one name or
    folder, a stem that occurs twice in a folder, and folders without pictures or with no stem in common.
    """
    root = Path(targets)
    folders = _named(methods)
    if len(folders) < least:
        raise ValueError(f"at least {least} methods are needed, got {len(folders)}; give a folder for each.")
    for name, folder in folders.items():
        if folder.is_dir() and root.is_dir() and folder.samefile(root):
            raise ValueError(f"the folder '{folder}' of the method '{name}' is the folder of the targets.")
    references = _by_stem(root)
    by_method = {name: _by_stem(folder) for name, folder in folders.items()}
    common = [stem for stem in references if any(stem in pictures for pictures in by_method.values())]
    if not common:
        raise ValueError(
            f"no picture of the methods has the name of one in '{root}' ({', '.join(list(references)[:3])}, ...); "
            "reconstructions are matched to their target by file name, without the ending."
        )
    missing = {name: [stem for stem in references if stem not in pictures] for name, pictures in by_method.items()}
    missing["targets"] = sorted({stem for pictures in by_method.values() for stem in pictures} - references.keys())
    return Reconstructions(
        targets={stem: references[stem] for stem in common},
        methods={name: {s: pictures[s] for s in common if s in pictures} for name, pictures in by_method.items()},
        missing={name: stems for name, stems in missing.items() if stems},
    )


def _named(methods: Sequence[Path | str]) -> dict[str, Path]:
    folders: dict[str, Path] = {}
    for word in map(str, methods):
        name, equals, folder = word.partition("=")
        if not equals or Path(word).is_dir():
            name, folder = Path(word).resolve().name, word
        if not name or name.startswith(".") or set(name) & set('/\\:="') or not name.isprintable():
            raise ValueError(f"a method cannot be called {name!r}; give it a plain name: NAME={folder}.")
        if name in folders:
            raise ValueError(
                f"two methods are called '{name}': '{folders[name]}' and '{folder}'; name them apart, OTHER={folder}."
            )
        if Path(folder).is_dir() and (same := [n for n, f in folders.items() if f.samefile(folder)]):
            raise ValueError(f"the methods '{same[0]}' and '{name}' are the same folder, '{folder}'.")
        folders[name] = Path(folder)
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"'{folder}' is not a folder; give the folder with the pictures of a method.")
    return folders


def _by_stem(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"'{folder}' is not a folder; give the folder with the target pictures.")
    pictures: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() not in SUFFIXES or file.name.startswith(".") or not file.is_file():
            continue
        if file.stem in pictures:
            raise ValueError(
                f"'{pictures[file.stem]}' and '{file}' have one name; pictures are matched by it, so keep one of them."
            )
        pictures[file.stem] = file
    if not pictures:
        raise ValueError(f"no pictures in '{folder}' ({', '.join(SUFFIXES)}).")
    return pictures
