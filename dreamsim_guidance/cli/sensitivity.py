"""`dreamsim-guidance sensitivity`: report what metrics attend to."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import UseAppendAction

from dreamsim_guidance.cli.outputs import check_folder
from dreamsim_guidance.files.tables import text_table

if TYPE_CHECKING:
    from dreamsim_guidance.evaluation.statistics.intervals import Interval
    from dreamsim_guidance.sensitivity import Sensitivity

__all__ = ["SensitivityCommand", "sensitivity_lines"]

Part = Literal["factors", "masks", "features", "robustness", "maps"]


@dataclass(frozen=True)
class SensitivityCommand:
    """Report what metrics attend to: factors of scenes, foreground or background, colour and layout, distortions, and maps.

    Without data everything is measured on drawn scenes whose factors are known. The folder gets sensitivity.html, one page
    with all plots, sensitivity.json with all numbers and intervals, the maps as PNG files, and the embeddings, so that a
    further metric or part costs only what is new.
    """

    to: Path
    """Folder for the results; files of an earlier analysis are replaced."""
    metric: Annotated[tuple[tuple[str, ...], ...], UseAppendAction] = ()
    """pocket (the default), photographs, ensemble, lpips, ssim, a model file, a run's folder, your own file.py:function or
    class, ...; several may be given, also as --metric a --metric b. Differences are to the first."""
    part: Annotated[tuple[tuple[Part, ...], ...], UseAppendAction] = ()
    """factors, masks, features, robustness, maps; by default all."""
    data: Path | None = None
    """A set of triplets for masks, features and robustness: its folder or csv file, as for evaluate."""
    kind: str | None = None
    """Kind of the set; by default recognised by its files."""
    split: str | None = None
    """Split of the set; by default all rows."""
    masks: Path | None = None
    """Folder with the foreground of each picture as a black and white picture of the same name, or NAME_mask."""
    saliency: str | None = None
    """Instead of masks: file.py:function, from a picture (1, 3, h, w) to (h, w) in [0, 1]; above 1/2 is foreground. By default
    what stands out from the colours at the border."""
    fill: Literal["grey", "mean", "blur"] = "grey"
    """What replaces the masked part: grey, the mean colour of the rest, or the rest blurred into it."""
    depth: Path | None = None
    """Folder with the depth of each picture as a grey picture of the same name, or NAME_depth."""
    categories: Path | None = None
    """Table with the columns path and category, a row for each picture."""
    pair: tuple[Path, Path] | None = None
    """Two pictures for the maps; by default the first reference and its first candidate."""
    scenes: int = 24
    """Drawn scenes for the factors."""
    triplets: int = 200
    """Triplets for masks and features; drawn with the seed if the set has more."""
    pictures: int = 16
    """Pictures for robustness."""
    size: int = 128
    """Side of drawn scenes and distorted windows in pixels."""
    resamples: int = 2000
    """Of the bootstrap."""
    seed: int = 0
    """Of the bootstrap and of the choice of triplets and pictures."""
    device: str | None = None
    """cpu, cuda, mps, ...; by default an accelerator if there is one."""
    batch: int | None = None
    """Images that go through a network at once; by default 32, and 8 pairs."""

    def __call__(self) -> int:
        from dreamsim_guidance.evaluation.metrics.named_metrics import callable_named
        from dreamsim_guidance.sensitivity import PARTS, Analysis, sensitivity

        if self.to.exists() and not self.to.is_dir():
            raise ValueError(f"'{self.to}' is a file; give a folder as --to.")
        check_folder(self.to, "--to")
        analysis = Analysis(
            parts=tuple(dict.fromkeys(part for parts in self.part for part in parts)) or PARTS,
            data=self.data,
            kind=self.kind,
            split=self.split,
            masks=self.masks,
            saliency=None
            if self.saliency is None
            else callable_named(self.saliency, "saliency function", "(1, 3, h, w) -> (h, w)"),
            fill=self.fill,
            depth=self.depth,
            categories=self.categories,
            pair=self.pair,
            scenes=self.scenes,
            triplets=self.triplets,
            pictures=self.pictures,
            size=self.size,
            resamples=self.resamples,
            seed=self.seed,
        )
        names = [name for group in self.metric for name in group] or ["pocket"]
        result = sensitivity(names, analysis, self.to, device=self.device, batch=self.batch)
        print("\n".join(sensitivity_lines(result)))
        print(f"written: {self.to / 'sensitivity.html'}", file=sys.stderr)
        return 2 if result.failed else 0


def sensitivity_lines(result: Sensitivity) -> list[str]:
    """The main numbers of each part as tables for a terminal."""
    lines = []
    if result.factors:
        rows = [
            [factor, *(_cell(p.steps[factor][-1].relative) for p in result.factors.values())]
            for factor in next(iter(result.factors.values())).steps
        ]
        lines += [text_table(["factor, relative distance", *result.factors], rows), ""]
    if result.masks:
        rows = [[name, _cell(r.foreground), _cell(r.background)] for name, r in result.masks.items()]
        lines += [text_table(["decisions kept with", "foreground alone", "background alone"], rows), ""]
    if result.features:
        rows = [
            [f"{name}, {feature}", _cell(c.agreement), _cell(c.correlation), _cell(c.joint)]
            for name, features in result.features.items()
            for feature, c in features.items()
        ]
        lines += [text_table(["decisions against", "agreement", "correlation", "joint"], rows), ""]
    if result.robustness:
        kinds = next(iter(result.robustness.values())).curves
        rows = [
            [f"{kind} {c.strengths[-1]:g}", *(_cell(r.curves[kind].relative[-1]) for r in result.robustness.values())]
            for kind, c in kinds.items()
        ]
        rows.append(["shift variance", *(_cell(r.shift_variance) for r in result.robustness.values())])
        lines += [text_table(["distortion, relative distance", *result.robustness], rows), ""]
    lines += [f"{note}." for note in result.notes()]
    for name, maps in result.maps.items():
        lines += [f"{name}: no {m.name}: {m.unavailable}" for m in maps if m.unavailable]
    return lines


def _cell(interval: Interval) -> str:
    if interval.value != interval.value:
        return "–"
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
