"""`index.json`: what made an index, and where one may be."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from dreamsim_guidance import __version__
from dreamsim_guidance.files.atomic import write_json
from dreamsim_guidance.files.names import printable
from dreamsim_guidance.files.pictures import Reading
from dreamsim_guidance.files.untrusted_json import parse_json

__all__ = ["Description", "check_place"]

_FORMAT, _VERSION = "dreamsim-guidance index", 1
_FILE = "index.json"


@dataclass(frozen=True)
class Description:
    """What `index.json` says: how the embeddings were made.

    metric: its name as given, a file's as an absolute path. fingerprint: see `embedder.index_fingerprint`.
    dimension: of the vectors. reading: of picture files. sources: all that were embedded, as given.
    library: the version of this library that made the index.
    probe: the vector of a fixed picture. Weights that were folded on another processor differ by rounding, which changes the
        fingerprint; then the probe decides whether the metric is the same.
    """

    metric: str
    fingerprint: str
    dimension: int
    reading: Reading = "upright"
    sources: tuple[str, ...] = ()
    library: str = __version__
    probe: tuple[float, ...] = ()

    def write(self, folder: Path) -> None:
        """Write `index.json` into the folder, atomically."""
        write_json(folder / _FILE, {"format": _FORMAT, "version": _VERSION, **asdict(self)})

    def with_sources(self, sources: Iterable[str]) -> Description:
        """The description with further sources."""
        return replace(self, sources=tuple(dict.fromkeys([*self.sources, *sources])))

    @classmethod
    def read(cls, folder: Path) -> Description:
        """Read `index.json`. Raises FileNotFoundError for a folder without it, ValueError for one that is damaged."""
        file = folder / _FILE
        try:
            content = parse_json(file.read_bytes(), f"'{file}'")
        except FileNotFoundError:
            raise FileNotFoundError(
                f"'{printable(folder)}' is not an index, it has no {_FILE}; make one with `dreamsim-guidance embed`."
            ) from None
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ValueError(f"'{file}' is damaged or not of an index; restore it, or make the index again.")
        if content.get("version") != _VERSION:
            raise ValueError(
                f"'{file}' has version {content.get('version')!r} of the format, and this library reads {_VERSION}; "
                "pip install --upgrade dreamsim-guidance."
            )
        try:
            made = cls(
                str(content["metric"]),
                str(content["fingerprint"]),
                int(content["dimension"]),
                content["reading"],
                tuple(map(str, content["sources"])),
                str(content["library"]),
                tuple(float(value) for value in content.get("probe", ())),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"'{file}' is damaged ({error!r}); restore it, or make the index again.") from error
        if made.dimension < 1 or made.reading not in ("upright", "original"):
            raise ValueError(f"'{file}' is damaged; restore it, or make the index again.")
        return made


def check_place(folder: Path) -> None:
    """Raise FileExistsError if the folder holds files and no index, or is a file itself."""
    if folder.is_file():
        raise FileExistsError(f"'{printable(folder)}' is a file; give a new or an empty folder for the index.")
    if not folder.is_dir() or (folder / _FILE).exists():
        return
    if any(not entry.name.startswith(".") for entry in folder.iterdir()):
        raise FileExistsError(
            f"'{printable(folder)}' holds other files and no {_FILE}; give a new or an empty folder for the index."
        )
