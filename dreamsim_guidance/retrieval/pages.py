"""Self-contained HTML pages of pictures: everything is inside the one file, and nothing is loaded or run.

Names of files are text from outside: they are escaped wherever they appear, and a content security policy forbids scripts and
any access to the network, should one get through.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from PIL import Image as PILImage

from dreamsim_guidance.files.names import printable
from dreamsim_guidance.retrieval.sources.piece import file_of
from dreamsim_guidance.retrieval.sources.remote import is_url
from dreamsim_guidance.retrieval.thumbnails import data_url

__all__ = ["facts", "figure", "grid", "page"]


def page(title: str, sections: Iterable[str]) -> str:
    """Return a page with a title, which is plain text, and sections of HTML."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_STYLE}</style></head><body><main>\n<h1>{escape(title)}</h1>\n"
        + "\n".join(sections)
        + "\n</main></body></html>\n"
    )


def facts(values: Mapping[str, str]) -> str:
    """Return a list of names and values, which are plain text."""
    pairs = (f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in values.items())
    return f"<dl>{''.join(pairs)}</dl>"


def grid(figures: Iterable[str]) -> str:
    """Return figures side by side."""
    return f"<div class=grid>{''.join(figures)}</div>"


def figure(path: str, picture: PILImage.Image | None, captions: Sequence[str], kind: str = "") -> str:
    """Return a picture with its name and captions.

    path: of the picture in an index, or another name; a file on this machine becomes a link. picture: its thumbnail, None if it
    is missing. captions: plain text. kind: a class for the style, such as "keep".
    """
    name, address = escape(printable(path)), _address(path)
    short = escape(printable(path.rstrip("/").rpartition("/")[2] or path))
    if picture is None:
        image = f'<span class=missing title="{name}">missing</span>'
    else:
        image = (
            f'<img alt="{name}" title="{name}" loading=lazy width={picture.width} height={picture.height} '
            f'src="{data_url(picture)}">'
        )
    label = f"<span class=name>{short}</span>"
    if address is not None:
        image, label = (f'<a href="{escape(address)}">{part}</a>' for part in (image, label))
    lines = "".join(f"<span>{escape(text)}</span>" for text in captions)
    return f'<figure class="{kind}">{image}<figcaption>{label}{lines}</figcaption></figure>'


def _address(path: str) -> str | None:
    """The address of a picture file on this machine, or None for what is none."""
    if is_url(path):
        return None
    try:
        file = file_of(path)
        return file.as_uri() if file.is_absolute() and file.is_file() else None
    except (OSError, ValueError):  # a name too long, a null byte
        return None


_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_STYLE = """
:root { --ink: #1d2433; --quiet: #667085; --line: #e3e7ee; --accent: #2563a8; }
body { margin: 0; background: #f6f7f9; color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1200px; margin: 0 auto; padding: 28px 32px 60px; background: #fff; min-height: 100vh; }
h1 { font-size: 24px; margin: 0 0 14px; overflow-wrap: anywhere; } h2 { font-size: 18px; margin: 30px 0 8px; }
.note { color: var(--quiet); font-size: 13.5px; max-width: 78ch; }
dl { display: flex; flex-wrap: wrap; gap: 8px 32px; margin: 0; }
dt { color: var(--quiet); font-size: 13px; } dd { margin: 0; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 16px; padding: 8px 0; }
figure { margin: 0; min-width: 0; font-size: 12.5px; line-height: 1.4; }
figure img, .missing { width: 100%; height: 130px; object-fit: contain; background: #f6f7f9; border-radius: 4px; }
figure img { border: 2px solid transparent; box-sizing: border-box; } .keep img { border-color: var(--accent); }
.missing { display: flex; align-items: center; justify-content: center; color: var(--quiet); border: 1px dashed var(--line);
  box-sizing: border-box; }
figcaption span { display: block; overflow-wrap: anywhere; color: var(--quiet); font-variant-numeric: tabular-nums; }
figcaption .name { color: var(--ink); overflow: hidden; text-overflow: ellipsis; white-space: nowrap; } a { color: inherit; }
"""
