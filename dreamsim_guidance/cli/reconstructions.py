"""`dreamsim-guidance evaluate reconstructions`: compare methods by metrics, and by people's votes if there are any."""

from __future__ import annotations

import json as jsonlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from dreamsim_guidance.cli.outputs import check_file, check_folder, write_files
from dreamsim_guidance.cli.parsing import parse

if TYPE_CHECKING:
    from PIL import Image as PILImage

    from dreamsim_guidance.data.reconstructions import Reconstructions
    from dreamsim_guidance.evaluation.preferences import Preferences
    from dreamsim_guidance.evaluation.reconstructions import ReconstructionComparison

__all__ = ["EvaluateReconstructions", "main"]


@dataclass(frozen=True)
class EvaluateReconstructions:
    """Compare methods that reconstructed the same references: distances with intervals, identification, a contact sheet.

    Without votes, this says nothing about what people prefer. With --votes (a folder that `study read` wrote) it also reports
    each method's win rate and Bradley-Terry strength among those people, and how well each metric agrees with them.
    (To evaluate a set of judgments in a folder that is called "reconstructions", write ./reconstructions.)
    """

    targets: Positional[Path]
    """Folder of the reference pictures."""
    methods: Positional[tuple[str, ...]]
    """A folder for each method, or NAME=FOLDER; pictures are matched by file name, but endings may differ."""
    metric: tuple[str, ...] = ("ensemble",)
    """ensemble, dino_vitb16, ... (published weights), pocket (shipped), a model file, mse, psnr, ssim, file.py:function."""
    baselines: bool = False
    """Add the baselines of the paper; those whose weights cannot be obtained are reported, and the others run."""
    votes: Path | None = None
    """Folder that `study read` wrote for a study of mode 2afc."""
    json: bool = False
    """Print JSON instead of tables."""
    html: Path | None = None
    """Write the tables and the contact sheet to one HTML file."""
    to: Path | None = None
    """Folder for reconstructions.json, reconstructions.html and contact_sheet.png."""
    columns: int = 8
    """Number of references on the contact sheet, evenly spread over the list of names."""
    cache: Path | None = None
    """Folder in which embeddings are kept; by default the user's cache folder."""
    device: str | None = None
    """cpu, cuda, mps, ...; by default an accelerator if there is one."""
    seed: int = 0
    """Of the bootstrap."""

    def __call__(self) -> int:
        from dreamsim_guidance.data.reconstructions import find_reconstructions
        from dreamsim_guidance.evaluation import reconstructions_page as page
        from dreamsim_guidance.evaluation.metrics.baselines import BASELINES, COMPARES
        from dreamsim_guidance.evaluation.metrics.named_metrics import load_metrics
        from dreamsim_guidance.evaluation.preferences import read_preferences
        from dreamsim_guidance.evaluation.reconstructions import compare_reconstructions
        from dreamsim_guidance.files.atomic import plain, write_json, write_text
        from dreamsim_guidance.files.names import printable
        from dreamsim_guidance.files.tables import text_table
        from dreamsim_guidance.processes import is_main

        if self.columns < 1:
            raise ValueError(f"columns must be at least 1, got {self.columns}.")
        if self.html is not None:
            check_file(self.html, "--html")
        if self.to is not None:
            check_folder(self.to, "--to")
        names = list(dict.fromkeys([*self.metric, *(BASELINES if self.baselines else ())]))
        loaded = load_metrics(names, self.device, True if self.cache is None else self.cache)
        metrics = {printable(name): metric for name, metric in loaded.items()}
        reconstructions = find_reconstructions(self.targets, self.methods, least=1)
        preferences = None if self.votes is None else read_preferences(self.votes)
        if preferences is not None:
            _check_methods(reconstructions, preferences)
        reconstructions.check(progress=is_main())
        embeddings = [name for name in metrics if name not in COMPARES and ":" not in name]
        comparison = compare_reconstructions(
            reconstructions, metrics, preferences, two_way=embeddings, seed=self.seed, progress=is_main()
        )
        if not is_main():
            return 0
        for name, stems in reconstructions.missing.items():
            print(f"missing in {name}: {', '.join(map(printable, stems))}", file=sys.stderr)
        for name, why in comparison.failed.items():
            print(f"{name} did not run: {why}", file=sys.stderr)
        content = plain(_content(comparison, reconstructions))
        if self.json:
            print(jsonlib.dumps(content, indent=2))
        else:
            print(text_table(*page.matrix(comparison)))
            print(page.legend(comparison))
            for table in page.people_table(comparison) or ():
                print()
                print(text_table(*table))
            print(comparison.note)
        if self.html is not None or self.to is not None:
            sheet, caption = _sheet(comparison, reconstructions, self.columns)
            text = page.render(comparison, sheet, caption)
            files: dict[Path, Callable[[Path], object]] = {}
            if self.html is not None:
                files[self.html] = lambda file: write_text(file, text)
            if self.to is not None:
                files[self.to / "reconstructions.json"] = lambda file: write_json(file, content)
                files[self.to / "reconstructions.html"] = lambda file: write_text(file, text)
                files[self.to / "contact_sheet.png"] = lambda file: _save(sheet, file)
            write_files(files)
        return 0


def main(words: Sequence[str]) -> int:
    """Run the command with the words after `evaluate reconstructions`."""
    command, unknown = parse(EvaluateReconstructions, words, "dreamsim-guidance evaluate reconstructions")
    if unknown:
        raise ValueError(
            f"unknown options: {' '.join(unknown)}; see `dreamsim-guidance evaluate reconstructions --help`."
        )
    return command()


def _check_methods(reconstructions: Reconstructions, preferences: Preferences) -> None:
    judged = set(preferences.methods)
    if not judged & reconstructions.methods.keys():
        raise ValueError(
            f"the votes are on {', '.join(preferences.methods)}, not on {', '.join(reconstructions.methods)}; "
            "name the folders as in the study: NAME=FOLDER."
        )
    for name in [*reconstructions.methods.keys() - judged]:
        print(f"people were not asked about {name}", file=sys.stderr)
    for name in [*judged - reconstructions.methods.keys()]:
        print(f"people were also asked about {name}, which is not among the folders", file=sys.stderr)


def _content(comparison: ReconstructionComparison, reconstructions: Reconstructions) -> dict[str, Any]:
    """The content of the JSON."""
    from dreamsim_guidance.files.names import printable

    people = comparison.people
    return {
        "references": [printable(stem) for stem in comparison.references],
        "incomplete": [printable(stem) for stem in comparison.incomplete],
        "methods": comparison.methods,
        "missing": {name: [printable(stem) for stem in stems] for name, stems in reconstructions.missing.items()},
        "metrics": {
            name: {
                method: {
                    "distance": asdict(cell.distance),
                    "difference_to_first": None if cell.difference is None else asdict(cell.difference),
                    "two_way_identification": None if cell.two_way is None else asdict(cell.two_way),
                    "distances": cell.distances,
                }
                for method, cell in cells.items()
            }
            for name, cells in comparison.cells.items()
        },
        "failed": comparison.failed,
        "note": comparison.note,
        "people": None
        if people is None
        else {
            "methods": {name: asdict(standing) for name, standing in people.standings.items()},
            "agreement": asdict(people.agreement),
        },
    }


def _sheet(
    comparison: ReconstructionComparison, reconstructions: Reconstructions, columns: int
) -> tuple[PILImage.Image, str]:
    from dreamsim_guidance.evaluation.samples.contact_sheet import contact_sheet, some

    metric, cells = next(iter(comparison.cells.items()))
    places = some(len(comparison.references), columns)
    stems = [comparison.references[i] for i in places]
    rows = {"target": [reconstructions.targets[stem] for stem in stems]}
    notes = {}
    for name, files in reconstructions.methods.items():
        row = name if name not in rows else f"{name} "
        rows[row] = [files[stem] for stem in stems]
        notes[row] = [f"{cells[name].distances[i]:.4f}" for i in places]
    caption = (
        f"{len(stems)} of {len(comparison.references)} references, evenly spread by name; below each picture: {metric}."
    )
    return contact_sheet(rows, notes), caption


def _save(sheet: PILImage.Image, file: Path) -> None:
    from dreamsim_guidance.files.atomic import writing

    with writing(file) as temporary:
        sheet.save(temporary)
