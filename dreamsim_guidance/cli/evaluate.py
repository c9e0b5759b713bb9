"""`dreamsim-guidance evaluate`: report how well metrics agree with people."""

from __future__ import annotations

import json as jsonlib
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, UseAppendAction

from dreamsim_guidance.cli.outputs import check_file, write_files
from dreamsim_guidance.files.tables import text_table

if TYPE_CHECKING:
    from dreamsim_guidance.evaluation.report import Part, Report
    from dreamsim_guidance.evaluation.robustness.robustness import Robustness
    from dreamsim_guidance.evaluation.statistics.intervals import Interval

__all__ = ["EvaluateCommand", "report_lines"]


@dataclass(frozen=True)
class EvaluateCommand:
    """Report how well metrics agree with people on triplets, same-or-different pairs, or mean scores, with 95 % intervals.

    Triplets are scored by three rules: fraction (the share of the votes, as in the original), majority (equal votes are left
    out), and unanimous. Intervals are bootstrapped by reference; with several metrics, the lead of each over the first is
    reported too. Embeddings are kept on disk: another set over the same pictures costs nothing, and an interrupted run resumes.
    On several processes: `accelerate launch -m dreamsim_guidance evaluate ...`, or `torchrun`.
    """

    data: Positional[Path]
    """The folder of a set of judgments (NIGHTS, BAPPS, PieAPP, TID2013, your own study, ...), or its csv file."""
    metric: tuple[str, ...] = ()
    """ensemble (the default), dino_vitb16, ... (published weights), pocket (shipped), a model file (.safetensors) or the
    folder of a training run, mse, a baseline, or your own file.py:function, (images, images) -> (b,)."""
    baselines: bool = False
    """Also evaluate the baselines of the paper: psnr, ssim, ms-ssim, lpips, dists, dino, clip, open_clip, mae, resnet50."""
    split: str | None = None
    """train, val, test, test_imagenet, test_no_imagenet, ...; by default all rows."""
    kind: str | None = None
    """Kind of the set: nights, nights-jnd, bapps, pieapp, tid2013, ...; by default recognised by its files."""
    rule: tuple[str, ...] = ()
    """fraction, majority, unanimous (by default all three), odd-one-out (for THINGS, where it is used by default)."""
    attack: Annotated[tuple[tuple[str, ...], ...], UseAppendAction] = ()
    """Also report agreement while an adversary changes the candidate that a metric prefers, by at most 4/255 in any value
    (linf:4/255) or 1.5 in Euclidean length (l2:1.5), with the gradient of that metric; several may be given."""
    steps: int = 10
    """Gradient steps of each attack."""
    sample: int | None = None
    """Judge so many triplets only, drawn with the seed; an attack costs as much as steps x 3 evaluations."""
    least_votes: int | None = None
    """Leave out triplets with fewer votes; by default 6 if votes are winners, as in NIGHTS, else 1."""
    json: bool = False
    """Print JSON instead of a table."""
    html: Path | None = None
    """Also write a self-contained report with plots and the hardest disagreements to this file."""
    cache: Path | None = None
    """Folder in which embeddings are kept; by default ~/.cache/dreamsim_guidance/embeddings."""
    no_cache: bool = False
    """Neither keep nor reuse embeddings."""
    device: str | None = None
    """cpu, cuda, mps, ...; by default an accelerator if there is one."""
    workers: int | None = None
    """Processes that read pictures ahead; by default 4 with an accelerator, otherwise none."""
    batch: int | None = None
    """Images that go through a network at once; by default 32, and 8 pairs."""
    reading: Literal["upright", "original"] = "upright"
    """How picture files are read: turned as their EXIF tag says and at their full depth, or as the original package does.
    A warning names the pictures for which this makes a difference."""
    resamples: int = 2000
    """Of the bootstrap."""
    seed: int = 0
    """Of the bootstrap, of the sample, and of the attacks' random starts."""

    def __call__(self) -> int:
        from dreamsim_guidance.evaluation.metrics.named_metrics import true_name
        from dreamsim_guidance.files.atomic import plain
        from dreamsim_guidance.files.names import printable
        from dreamsim_guidance.processes import is_main

        self._check()
        evaluation = self._evaluate()
        report = evaluation.report
        if is_main():
            print(jsonlib.dumps(plain(asdict(report)), indent=2) if self.json else "\n".join(report_lines(report)))
            if self.html is not None:
                from dreamsim_guidance.evaluation.html_report import write_html

                write_files({self.html: lambda file: write_html(evaluation, file)})
        return 2 if {printable(true_name(metric)) for metric in self.metric} & set(report.failed) else 0

    def _check(self) -> None:
        if self.cache is not None and self.no_cache:
            raise ValueError("--cache and --no-cache exclude each other; give one of them.")
        if self.resamples < 100:
            raise ValueError(f"an interval needs at least 100 resamples, got {self.resamples}.")
        for name in ("workers", "batch", "steps", "sample"):
            least, value = (0 if name == "workers" else 1), getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"--{name} must be at least {least}, got {value}.")
        if self.html is not None:
            check_file(self.html, "--html")

    def _evaluate(self):  # type: ignore[no-untyped-def]
        from dataclasses import replace

        from dreamsim_guidance.data.judgments import Judgments
        from dreamsim_guidance.data.pictures import check_pictures
        from dreamsim_guidance.data.readers.sets import read_judgments, recognise
        from dreamsim_guidance.evaluation.judging import evaluate
        from dreamsim_guidance.evaluation.metrics.embedding_cache import EmbeddingCache
        from dreamsim_guidance.evaluation.metrics.named_metrics import BASELINES, load_metrics
        from dreamsim_guidance.evaluation.robustness.attack import Attack
        from dreamsim_guidance.evaluation.score import ODD_ONE_OUT, RULES
        from dreamsim_guidance.files.names import printable
        from dreamsim_guidance.processes import is_main, process_device

        attacks = [Attack.parse(text, self.steps) for texts in self.attack for text in texts]
        kind = self.kind or recognise(self.data)
        data = read_judgments(self.data, kind, self.split, self.least_votes)
        if ODD_ONE_OUT in self.rule and kind != "things":
            raise ValueError(f"the rule {ODD_ONE_OUT} is for sets of kind things, and this is {kind}; leave it out.")
        for option, value in (("attack", attacks), ("sample", self.sample)):
            if value and not isinstance(data, Judgments):
                raise ValueError(f"--{option} is for triplets, and this set of kind {kind} has none; leave it out.")
        if self.sample is not None and isinstance(data, Judgments):
            data = data.sample(self.sample, self.seed)
        rules = self.rule or ((ODD_ONE_OUT, *RULES[:1]) if kind == "things" else ())
        cache = False if self.no_cache else self.cache or True
        on = process_device(self.device)
        workers = self.workers if self.workers is not None else (0 if on == "cpu" else 4)
        names = dict.fromkeys([*(self.metric or ("ensemble",)), *(BASELINES if self.baselines else ())])
        loaded = load_metrics(list(names), on, cache, workers, self.batch, self.reading)
        metrics = {printable(name): metric for name, metric in loaded.items()}
        main = is_main()
        if cache is False:  # broken pictures are reported at the start, not after an hour
            check_pictures(data.images, workers or None, main, self.reading)
        else:
            EmbeddingCache(None if cache is True else cache).digests(data.images, workers, main, self.reading)
        evaluation = evaluate(
            data,
            metrics,
            rules,
            self.resamples,
            self.seed,
            progress=main,
            tell=lambda line: print(line, file=sys.stderr) if main else None,
            attacks=attacks,
        )
        source = printable(self.data) + (f", split {self.split}" if self.split else "")
        return replace(evaluation, report=replace(evaluation.report, source=source))


def report_lines(report: Report) -> list[str]:
    """Return the report as tables for a terminal."""
    from dreamsim_guidance.evaluation.report import ROWS

    lines = [
        f"{report.source}: {report.count} {ROWS[report.kind]}, {report.references} references, {report.images} images",
        "",
        text_table(
            ["", *report.measures], [[name, *_cells(intervals, report)] for name, intervals in report.agreement.items()]
        ),
    ]
    if report.lead:
        first = next(iter(report.agreement))
        leads = [[name, *_cells(intervals, report, "+.4f")] for name, intervals in report.lead.items()]
        lines += ["", text_table([f"lead over {first}", *report.measures], leads)]
    if report.robustness is not None and report.robustness.agreement:
        lines += ["", _robustness(report.robustness)]
    for title, parts in (("split", report.splits), ("group", report.groups)):
        if parts:
            lines += ["", _parts(title, parts, report)]
    lines += ["", *_people(report)]
    return lines


def _robustness(results: Robustness) -> str:
    rows = [
        [metric, attack, *(_value(intervals.get(measure), bounds=True) for measure in results.measures)]
        for metric, attacks in results.agreement.items()
        for attack, intervals in attacks.items()
    ]
    return text_table(["under attack", "attack", *results.measures], rows)


def _people(report: Report) -> list[str]:
    lines = []
    if report.ceiling is not None and report.limit is not None:
        interval = report.ceiling_interval
        bounds = "" if interval is None else f" [{interval.low:.4f}, {interval.high:.4f}]"
        lines.append(
            f"one person agrees with another (fraction): {report.ceiling:.4f}{bounds}; the most that any metric can "
            f"reach on these votes: {report.limit:.4f}"
        )
        if report.ceiling == 1:
            lines.append("(this set holds only triplets on which everyone agreed, so this says nothing about people)")
    if undetermined := [name for name, curve in report.curves.items() if not curve.identified]:
        lines.append(
            f"psychometric curve: these votes do not determine its slope for {', '.join(undetermined)}; the slope and "
            "lapse in the JSON are one choice of many that explain them equally well"
        )
    lines += [f"{name}: {text}" for name, text in report.measures.items()]
    if report.robustness is not None:
        lines += report.robustness.notes
    lines.append(
        f"[{100 * report.level:g} % intervals: bootstrap over references, {report.resamples} resamples, seed {report.seed}]"
    )
    return lines


def _parts(title: str, parts: dict[str, Part], report: Report) -> str:
    measure = next(iter(report.measures))
    metrics = list(report.agreement)
    rows = [
        [name, str(part.count), *(_value(part.agreement[metric].get(measure)) for metric in metrics)]
        for name, part in parts.items()
    ]
    return text_table([f"{title} ({measure})", "n", *metrics], rows)


def _cells(intervals: dict[str, Interval], report: Report, form: str = ".4f") -> list[str]:
    return [_value(intervals.get(measure), form, True) for measure in report.measures]


def _value(interval: Interval | None, form: str = ".4f", bounds: bool = False) -> str:
    if interval is None:
        return "-"
    return f"{interval.value:{form}}" + (f" [{interval.low:{form}}, {interval.high:{form}}]" if bounds else "")
