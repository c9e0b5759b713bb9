"""The report of an evaluation as one self-contained HTML file: tables, plots, and the clearest disagreements as pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from functools import lru_cache
from html import escape
from pathlib import Path

from PIL import ImageOps

from dreamsim_guidance.data.judgments import Judgments
from dreamsim_guidance.data.ratings import Ratings
from dreamsim_guidance.evaluation.hardest import hardest_disagreements
from dreamsim_guidance.evaluation.html_page import page, plot_image, table
from dreamsim_guidance.evaluation.judging import Evaluation
from dreamsim_guidance.evaluation.plots import agreement_plot, curves_plot, scatter_plot
from dreamsim_guidance.evaluation.report import ROWS, Part, Report
from dreamsim_guidance.evaluation.statistics.intervals import Interval
from dreamsim_guidance.files.atomic import write_text
from dreamsim_guidance.files.names import printable
from dreamsim_guidance.files.pictures import read_rgb

__all__ = ["html_report", "write_html"]

_SIDE = 160
"""Pixels of a thumbnail's longer side; twice its size on the page, for screens of high resolution."""


def write_html(evaluation: Evaluation, path: Path, disagreements: int = 6) -> None:
    """Write the page of `html_report` to `path`, whole or not at all. Raises OSError if it cannot be written."""
    write_text(path, html_report(evaluation, disagreements))


def html_report(evaluation: Evaluation, disagreements: int = 6) -> str:
    """Return the page. For triplets it shows up to `disagreements` of each metric, where it contradicts people most clearly."""
    report = evaluation.report
    sections = [
        *_head(report),
        *_agreement(report),
        *_robustness(report),
        *_curves(evaluation),
        *_parts("Splits", report.splits, report),
        *_parts("Groups", report.groups, report),
        *_disagreements(evaluation, disagreements),
        *_notes(report),
    ]
    return page(f"Agreement with people: {report.source}", sections)


def _head(report: Report) -> Iterator[str]:
    yield f"<h1>Agreement with people</h1><p class=source>{escape(report.source)}</p>"
    facts = {
        ROWS[report.kind]: f"{report.count:,}",
        "references": f"{report.references:,}",
        "images": f"{report.images:,}",
        "metrics": str(len(report.agreement)),
    }
    if report.ceiling is not None:
        facts["one person agrees with another"] = _value(report.ceiling_interval or report.ceiling)
    if report.limit is not None:
        facts["the most any metric can reach on these votes"] = f"{report.limit:.3f}"
    yield "<dl>" + "".join(f"<div><dt>{escape(k)}</dt><dd>{v}</dd></div>" for k, v in facts.items()) + "</dl>"
    if report.ceiling == 1:
        yield "<p class=note>This set holds only triplets on which everyone agreed, so it does not show how often one person "
        yield "agrees with another.</p>"


def _agreement(report: Report) -> Iterator[str]:
    measures = list(report.measures)
    yield "<h2>Metrics</h2>"
    yield plot_image(agreement_plot(report), "Agreement of each metric under each measure, with intervals")
    best = {m: max((f[m].value for f in report.agreement.values() if m in f), default=None) for m in measures}
    rows = [
        [
            escape(name),
            *(
                _cell(intervals.get(m), best=m in intervals and intervals[m].value == best[m] and bool(report.lead))
                for m in measures
            ),
            escape(str(report.work[name])) if name in report.work else "",
        ]
        for name, intervals in report.agreement.items()
    ]
    yield table(["metric", *measures, "work"], rows)
    if report.lead:
        first = next(iter(report.agreement))
        yield f"<h3>Lead over {escape(first)}</h3><p class=note>Differences on the same rows; bold where the interval "
        yield "excludes zero.</p>"
        rows = [[escape(name), *(_lead(intervals.get(m)) for m in measures)] for name, intervals in report.lead.items()]
        yield table(["metric", *measures], rows)
    if report.failed:
        yield "<h3>Did not run</h3>"
        yield table(["metric", "reason"], [[escape(name), escape(why)] for name, why in report.failed.items()])


def _robustness(report: Report) -> Iterator[str]:
    results = report.robustness
    if results is None or not results.agreement:
        return
    yield "<h2>Under attack</h2>"
    yield from (f"<p class=note>{escape(note)}.</p>" for note in results.notes)
    rows = [
        [escape(metric), escape(attack), *(_cell(intervals.get(measure)) for measure in results.measures)]
        for metric, attacks in results.agreement.items()
        for attack, intervals in attacks.items()
    ]
    yield table(["metric", "attack", *results.measures], rows)


def _curves(evaluation: Evaluation) -> Iterator[str]:
    if (plot := curves_plot(evaluation.report.curves)) is not None:
        yield "<h2>How sure a metric is, and how often people agree</h2>"
        yield "<p class=note>The share of votes that side with the metric, against the gap between its two distances: means "
        yield "over bins of equally many triplets, and the curve of greatest likelihood, ½ + (1 − lapse)(1 / (1 + exp(−slope · "
        yield "gap)) − ½). The curve rises from ½ if a wider gap makes agreement more likely.</p>"
        yield plot_image(plot, "Share of votes that agree against the gap between the two distances")
        if undetermined := [name for name, curve in evaluation.report.curves.items() if not curve.identified]:
            yield f"<p class=note>Dashed ({escape(', '.join(undetermined))}): the votes do not determine the slope of the "
            yield "curve; very different slopes explain them equally well.</p>"
    if isinstance(evaluation.data, Ratings):
        yield "<h2>Scores against distances</h2>"
        yield plot_image(scatter_plot(evaluation.distances, evaluation.data.score), "Scores against distances")


def _parts(title: str, parts: dict[str, Part], report: Report) -> Iterator[str]:
    if not parts:
        return
    measure = next(iter(report.measures))
    metrics = list(report.agreement)
    people = any(part.ceiling is not None for part in parts.values())
    yield f"<h2>{title}</h2><p class=note>{escape(measure)}: {escape(report.measures[measure])}.</p>"
    rows = [
        [
            escape(name),
            f"{part.count:,}",
            f"{part.references:,}",
            *([_value(part.ceiling)] if people else []),
            *(_cell(part.agreement[metric].get(measure)) for metric in metrics),
        ]
        for name, part in parts.items()
    ]
    yield table([title.lower().rstrip("s"), "n", "references", *(["people"] if people else []), *metrics], rows)


def _disagreements(evaluation: Evaluation, count: int) -> Iterator[str]:
    data = evaluation.data
    if not isinstance(data, Judgments) or count < 1:
        return
    yield "<h2>Hardest disagreements</h2><p class=note>Triplets on which a metric contradicts the majority most clearly. "
    yield "People chose the picture framed in orange; the metric finds the one framed in blue nearer.</p>"
    for i, (name, distances) in enumerate(evaluation.distances.items()):
        d_a, d_b = distances[: len(data)], distances[len(data) :]
        rows = hardest_disagreements(d_a, d_b, data.votes_a, data.votes_b, data.reference, count)
        yield f"<details{' open' if i == 0 else ''}><summary>{escape(name)}</summary><div class=triplets>"
        for row in rows.tolist():
            people = "a" if data.votes_a[row] > data.votes_b[row] else "b"
            yield "<figure>"
            yield _thumbnail(data.images[data.reference[row]], ["reference"], "")
            for side, place, votes, distance in (
                ("a", data.a[row], data.votes_a[row], d_a[row]),
                ("b", data.b[row], data.votes_b[row], d_b[row]),
            ):
                captions = [f"{votes:.3g} vote{'' if votes == 1 else 's'}", f"distance {distance:.4g}"]
                yield _thumbnail(data.images[place], captions, "people" if side == people else "machine")
            yield "</figure>"
        yield (
            "</div>"
            if len(rows)
            else "<p class=note>None: this metric sides with the majority on every triplet.</p></div>"
        )
        yield "</details>"


def _notes(report: Report) -> Iterator[str]:
    yield "<h2>What the numbers are</h2><dl class=notes>"
    for name, text in report.measures.items():
        yield f"<dt>{escape(name)}</dt><dd>{escape(text)}.</dd>"
    yield "<dt>intervals</dt>"
    yield (
        f"<dd>{100 * report.level:g} % bootstrap intervals that resample whole references: {report.resamples} resamples, seed "
        f"{report.seed}. For a lead, both metrics are evaluated on the same resamples.</dd>"
    )
    if report.ceiling is not None:
        yield "<dt>one person agrees with another</dt><dd>The chance that two different votes on a triplet agree, estimated "
        yield "without bias for any number of votes. A metric can exceed it, because it is compared with the mean of many "
        yield "people.</dd>"
    yield "</dl>"


def _cell(interval: Interval | None, best: bool = False) -> str:
    if interval is None:
        return "–"
    value = f"<b>{interval.value:.4f}</b>" if best else f"{interval.value:.4f}"
    return f"{value} <small>[{interval.low:.3f}, {interval.high:.3f}]</small>"


def _lead(interval: Interval | None) -> str:
    if interval is None:
        return "–"
    sure = interval.low > 0 or interval.high < 0
    value = f"<b>{interval.value:+.4f}</b>" if sure else f"{interval.value:+.4f}"
    return f"{value} <small>[{interval.low:+.3f}, {interval.high:+.3f}]</small>"


def _value(value: Interval | float | None) -> str:
    if value is None:
        return "–"
    if isinstance(value, Interval):
        return f"{value.value:.3f} <small>[{value.low:.3f}, {value.high:.3f}]</small>"
    return f"{value:.3f}"


def _thumbnail(file: Path, captions: Sequence[str], kind: str) -> str:
    name = escape(printable(file))
    texts = "".join(f"<span>{escape(text)}</span>" for text in captions)
    return (
        f'<div class="picture {kind}"><img alt="{name}" title="{name}" src="{_embedded(file)}">'
        f"<span class=name>{escape(printable(file.name))}</span>{texts}</div>"
    )


@lru_cache(maxsize=1024)
def _embedded(file: Path) -> str:
    picture = ImageOps.contain(read_rgb(file), (_SIDE, _SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
