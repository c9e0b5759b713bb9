"""An overview of generated triplets for people: a page with some triplets of each way, and a sheet of them as one picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from dreamsim_guidance.evaluation.samples.contact_sheet import contact_sheet, some
from dreamsim_guidance.files.atomic import write_text, writing
from dreamsim_guidance.generation.plan import Plan
from dreamsim_guidance.generation.screening import Measured, Screening

__all__ = ["write_overview"]

_SHOWN = 24
"""Triplets of each way and amount on the page."""
_ON_SHEET = 4
"""Triplets of each way and amount on the sheet."""


def write_overview(folder: Path, plan: Plan, screening: Screening) -> None:
    """Write index.html, which shows the pictures of the folder, and sheet.png. Triplets of the screening are spread evenly."""
    groups = _groups(screening)
    write_text(folder / "index.html", _page(plan, screening, groups))
    rows, notes = {}, {}
    for name, triplets in groups.items():
        chosen = [triplets[i] for i in some(len(triplets), _ON_SHEET)]
        rows[name] = [folder / file for triplet in chosen for file in triplet.triplet.files]
        notes[name] = [text for t in chosen for text in ("reference", f"{t.distances[0]:.3f}", f"{t.distances[1]:.3f}")]
    with writing(folder / "sheet.png") as temporary:
        contact_sheet(rows, notes).save(temporary)


def _groups(screening: Screening) -> dict[str, list[Measured]]:
    """The triplets that were kept by way and amount; those that were dropped come last."""
    groups: dict[str, list[Measured]] = {}
    for triplet in sorted(screening.triplets, key=_was_dropped):
        groups.setdefault("dropped" if triplet.dropped else triplet.name, []).append(triplet)
    return groups


def _was_dropped(triplet: Measured) -> bool:
    return triplet.dropped is not None


def _page(plan: Plan, screening: Screening, groups: dict[str, list[Measured]]) -> str:
    facts = f"{len(screening.triplets):,} triplets, {len(screening.rows):,} kept; distances by {screening.metric}"
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in screening.dropped.items() if count) or "none"
    sections = "\n".join(section for name, triplets in groups.items() for section in _section(name, triplets))
    models = escape(", ".join(model.model for model in plan.models))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Generated triplets</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_STYLE}</style></head><body><main>\n<h1>Generated triplets</h1>\n"
        f"<p>{models}: {escape(facts)}. Dropped: {escape(dropped)}.</p>\n{sections}\n</main></body></html>\n"
    )


def _section(name: str, triplets: Sequence[Measured]) -> Iterator[str]:
    chosen = [triplets[i] for i in some(len(triplets), _SHOWN)]
    yield f"<h2>{escape(name)}</h2><p>{len(chosen)} of {len(triplets):,} triplets.</p><div class=triplets>"
    for measured in chosen:
        texts = ["reference", *(f"distance {distance:.4f}" for distance in measured.distances[:2])]
        pictures = "".join(
            f'<div><img loading=lazy alt="{text}" src="{escape(file)}"><span>{text}</span></div>'
            for file, text in zip(measured.triplet.files, texts, strict=True)
        )
        reason = f" ({measured.dropped})" if measured.dropped else ""
        caption = f"{measured.triplet.number}: {measured.triplet.prompt}{reason}"
        yield f"<figure>{pictures}<figcaption>{escape(caption)}</figcaption></figure>"
    yield "</div>"


_STYLE = """
body { margin: 0; color: #1d2433; font: 15px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1200px; margin: 0 auto; padding: 28px clamp(12px, 3vw, 32px) 60px; overflow-wrap: anywhere; }
h1 { font-size: 26px; margin: 0; } h2 { font-size: 19px; margin: 32px 0 0; } p { color: #667085; margin: 2px 0 12px; }
.triplets { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(340px, 100%), 1fr)); gap: 20px 28px; }
figure { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 8px; margin: 0; color: #667085; }
figure { font-size: 12px; }
figure img { width: 100%; border-radius: 4px; } figure span { display: block; }
figcaption { grid-column: 1 / -1; color: #1d2433; overflow-wrap: anywhere; }
"""
