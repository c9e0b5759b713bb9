"""The comparison of reconstruction methods as tables, and as one HTML file with a contact sheet."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

from PIL import Image as PILImage

from dreamsim_guidance.evaluation.reconstructions import ReconstructionComparison
from dreamsim_guidance.evaluation.statistics.intervals import Interval

__all__ = ["legend", "matrix", "people_table", "render"]

Table = tuple[Sequence[str], Sequence[Sequence[str]]]
"""The names of the columns, and the rows."""

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin-bottom: 1.5rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem 1rem .3rem 0; border-bottom: 1px solid #8886; white-space: pre; font-weight: 400; }
thead th { font-weight: 600; }
img { max-width: 100%; height: auto; }
.note { font-weight: 600; }
"""


def matrix(comparison: ReconstructionComparison) -> Table:
    """Metrics by methods: distance, difference to the first method, two-way identification."""
    table = []
    for name, cells in comparison.cells.items():
        table.append([name, *(number(cells[m].distance) for m in comparison.methods)])
        differences = [cells[m].difference for m in comparison.methods]
        if len(comparison.methods) > 1:
            table.append(["  minus the first", *("" if d is None else number(d, "+") for d in differences)])
        shares = [cells[m].two_way for m in comparison.methods]
        if any(shares):
            table.append(["  two-way identification", *("" if share is None else number(share) for share in shares)])
    return ["", *comparison.methods], table


def people_table(comparison: ReconstructionComparison) -> tuple[Table, Table] | None:
    """A table of methods with their win rate and strength, and one of metrics with their agreement; None without votes."""
    if comparison.people is None:
        return None
    methods = []
    for name, standing in comparison.people.standings.items():
        lead = "" if standing.lead is None else number(standing.lead, "+")
        methods.append([name, str(standing.votes), number(standing.win_rate), number(standing.strength, "+"), lead])
    report = comparison.people.agreement
    rules = list(dict.fromkeys(rule for agreement in report.agreement.values() for rule in agreement))
    metrics = []
    for name, agreement in report.agreement.items():
        metrics.append([name, *(number(agreement[rule]) if rule in agreement else "" for rule in rules)])
    if report.ceiling is not None:
        metrics.append(
            ["one person with another", *(f"{report.ceiling:.4f}" if r == "fraction" else "" for r in rules)]
        )
    columns = ["", "votes", "win rate", "Bradley-Terry strength", "minus the first"]
    return (columns, methods), (["agreement with people", *rules], metrics)


def legend(comparison: ReconstructionComparison) -> str:
    """Return a sentence that explains the numbers of `matrix`."""
    count = len(comparison.references)
    left_out = f" ({len(comparison.incomplete)} incomplete ones left out)" if comparison.incomplete else ""
    text = f"{count} references that every method has{left_out}; means with 95 % intervals over references. "
    text += "Distances: lower is more similar."
    if any(cell.two_way for cells in comparison.cells.values() for cell in cells.values()):
        text += " Identification: 1 is best, chance is 0.5."
    return text


def render(comparison: ReconstructionComparison, sheet: PILImage.Image, caption: str) -> str:
    """Return the page as one self-contained HTML text."""
    data = io.BytesIO()
    sheet.save(data, "png")
    parts = [
        "<h1>Reconstructions compared</h1>",
        f"<p>{html.escape(legend(comparison))}</p>",
        _table(matrix(comparison)),
        *(f"<p>{html.escape(name)} did not run: {html.escape(why)}</p>" for name, why in comparison.failed.items()),
        "<h2>People</h2>",
        f'<p class="note">{html.escape(comparison.note)}</p>',
        *(_table(table) for table in people_table(comparison) or ()),
        "<h2>Pictures</h2>",
        f"<p>{html.escape(caption)}</p>",
        f'<img alt="Contact sheet" src="data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}">',
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Reconstructions compared</title>\n<style>{_STYLE}</style>\n" + "\n".join(parts) + "\n</html>\n"
    )


def number(interval: Interval, sign: str = "") -> str:
    return f"{interval.value:{sign}.4f} [{interval.low:{sign}.4f}, {interval.high:{sign}.4f}]"


def _table(table: Table) -> str:
    columns, rows = table
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    body = "\n".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'
