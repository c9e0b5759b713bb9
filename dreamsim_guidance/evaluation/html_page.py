"""The frame of a self-contained HTML report: its style, tables, and plots inside the page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

__all__ = ["page", "plot_image", "table"]


def page(title: str, sections: Sequence[str]) -> str:
    """Return a page of one file. `title` is plain text, the sections are HTML."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_STYLE}</style></head><body><main>\n" + "\n".join(sections) + "\n</main></body></html>\n"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table. `head` is plain text, the cells are HTML."""
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<div class=wide><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"


def plot_image(svg: bytes, text: str) -> str:
    """A plot inside the page. `text` says what it shows, for those who do not see it."""
    return f'<img class=plot alt="{escape(text)}" src="data:image/svg+xml;base64,{base64.b64encode(svg).decode()}">'


_STYLE = """
:root { --ink: #1d2433; --quiet: #667085; --line: #e3e7ee; --accent: #2563a8; --warm: #c2571a; }
body { margin: 0; background: #f6f7f9; color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 28px 32px 60px; background: #fff; min-height: 100vh; }
h1 { font-size: 26px; margin: 0; } h2 { font-size: 19px; margin: 38px 0 8px; } h3 { font-size: 15px; margin: 24px 0 4px; }
.source, .note, small { color: var(--quiet); } .source { margin: 2px 0 18px; overflow-wrap: anywhere; }
.note { margin: 0 0 10px; font-size: 13.5px; max-width: 78ch; }
dl { display: flex; flex-wrap: wrap; gap: 10px 34px; margin: 0; } dl div { min-width: 70px; }
dt { color: var(--quiet); font-size: 13px; } dd { margin: 0; font-size: 20px; font-variant-numeric: tabular-nums; }
dd small { font-size: 13px; }
dl.notes { display: grid; grid-template-columns: max-content 1fr; gap: 4px 18px; font-size: 13.5px; }
dl.notes dd { font-size: 13.5px; }
.plot { display: block; max-width: 100%; height: auto; margin: 6px 0 14px; }
.wide { overflow-x: auto; }
.wide .plot { max-width: none; }
table { border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--quiet); border-bottom: 1px solid var(--line); }
th, td { padding: 5px 18px 5px 0; vertical-align: top; } td { border-bottom: 1px solid #f0f2f5; }
td:first-child { overflow-wrap: anywhere; min-width: 90px; font-weight: 500; }
details { border-top: 1px solid var(--line); padding: 8px 0; } summary { cursor: pointer; font-weight: 600; }
.triplets { display: grid; grid-template-columns: repeat(auto-fill, minmax(330px, 1fr)); gap: 18px 26px; padding: 12px 0; }
figure { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 10px; margin: 0; }
.picture { font-size: 12px; line-height: 1.35; color: var(--quiet); }
.picture img { width: 100%; height: 100px; object-fit: contain; border-radius: 4px; background: #f6f7f9; box-sizing: border-box;
  border: 3px solid transparent; }
.people img { border-color: var(--warm); } .machine img { border-color: var(--accent); }
.picture span { display: block; } .name { color: var(--ink); overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
@media (max-width: 640px) { main { padding: 20px 16px 40px; } dl.notes { grid-template-columns: minmax(0, 1fr); } }
@media print { main { max-width: none; } }
"""
