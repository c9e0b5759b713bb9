"""The results of retrieval as tables, for a terminal or in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dreamsim_guidance.evaluation.statistics.intervals import Interval
from dreamsim_guidance.files.tables import TableCell, markdown_table, text_table
from dreamsim_guidance.retrieval.evaluation.evaluating import RetrievalReport, TaskReport
from dreamsim_guidance.retrieval.evaluation.ranking import MAP, measure_names

__all__ = ["retrieval_markdown", "retrieval_text"]

_Rows = list[list[TableCell]]


def retrieval_text(report: RetrievalReport) -> str:
    """Return the mAP of every metric on every task, the differences to the first metric, and notes, for a terminal."""
    metrics = _metrics(report)
    parts = [text_table(["mAP", *metrics, "chance"], _by_task(report, metrics, lambda task: task.scores, ".3f"))]
    if len(metrics) > 1:
        rows = _by_task(report, metrics[1:], lambda task: task.differences, "+.3f", chance=False)
        parts.append(text_table([f"difference to {metrics[0]}", *metrics[1:]], rows))
    return "\n\n".join([*parts, *_notes(report)])


def retrieval_markdown(report: RetrievalReport) -> str:
    """Return the same tables in Markdown, then all measures of all metrics, and what each task asks."""
    metrics = _metrics(report)
    parts = ["## Mean average precision"]
    parts.append(markdown_table(["task", *metrics, "chance"], _by_task(report, metrics, lambda t: t.scores, ".3f")))
    if len(metrics) > 1:
        rows = _by_task(report, metrics[1:], lambda task: task.differences, "+.3f", chance=False)
        parts += [
            f"## Difference in mAP to {metrics[0]}, paired by query",
            markdown_table(["task", *metrics[1:]], rows),
        ]
    measures = _measures(report)
    parts += ["## All measures", markdown_table(["task", "metric", *measures], _all(report, measures))]
    lines = [
        f"- {name}: {task.queries} queries in {task.groups} groups, a gallery of {task.gallery}, "
        f"{task.relevant:.3g} relevant to a query on average; relevant: {task.rule}."
        + (f" {task.left_out} queries without a relevant picture are left out." if task.left_out else "")
        for name, task in report.tasks.items()
    ]
    note = (
        f"Means over queries with {100 * report.level:g} % bootstrap intervals that draw whole groups of queries "
        f"({report.resamples} resamples, seed {report.seed}). Chance is the expectation of a random ranking."
    )
    return "\n\n".join([*parts, "## Tasks", "\n".join(lines), note, *_notes(report)]) + "\n"


def _metrics(report: RetrievalReport) -> list[str]:
    return list(dict.fromkeys(name for task in report.tasks.values() for name in task.scores))


def _measures(report: RetrievalReport) -> list[str]:
    """The measures; without hits where every query has one relevant picture, since they equal the recall then."""
    single = all(task.relevant == 1 for task in report.tasks.values())
    return [measure for measure in measure_names(report.cutoffs) if not (single and measure.startswith("hit"))]


def _by_task(
    report: RetrievalReport,
    metrics: Sequence[str],
    values: Callable[[TaskReport], dict[str, dict[str, Interval]]],
    digits: str,
    chance: bool = True,
) -> _Rows:
    rows: _Rows = []
    for name, task in report.tasks.items():
        cells = [_cell(values(task)[metric][MAP], digits) if metric in values(task) else "-" for metric in metrics]
        rows.append([name, *cells, *([f"{task.chance[MAP]:.3f}"] if chance else [])])
    return rows


def _all(report: RetrievalReport, measures: Sequence[str]) -> _Rows:
    rows: _Rows = []
    for name, task in report.tasks.items():
        for metric, scores in task.scores.items():
            rows.append([name, metric, *(_cell(scores[measure], ".3f") for measure in measures)])
        rows.append([name, "chance", *(f"{task.chance[measure]:.3f}" for measure in measures)])
    return rows


def _notes(report: RetrievalReport) -> list[str]:
    notes = []
    for name, task in report.tasks.items():
        notes += [f"{name}: {metric} did not run: {reason}" for metric, reason in task.failed.items()]
        notes += [
            f"{name}, {metric}: in {100 * share:.0f} % of the queries a relevant picture is exactly as far as another; "
            "every measure is the mean over the orders of tied pictures."
            for metric, share in task.tied.items()
            if share
        ]
    return notes


def _cell(interval: Interval, digits: str) -> str:
    return f"{interval.value:{digits}} [{interval.low:{digits}}, {interval.high:{digits}}]"
