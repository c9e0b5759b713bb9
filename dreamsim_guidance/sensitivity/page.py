"""An analysis as one self-contained HTML page: what each part measures, its plot, and its numbers with intervals."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping
from html import escape

from dreamsim_guidance.evaluation.html_page import page, plot_image, table
from dreamsim_guidance.evaluation.statistics.intervals import Interval
from dreamsim_guidance.files.names import printable
from dreamsim_guidance.sensitivity.plots import correlation_plot, distortion_plot, factor_plot, masking_plot, step_plot
from dreamsim_guidance.sensitivity.report import Sensitivity

__all__ = ["sensitivity_page"]

_STYLE = """<style>
.maps { display: flex; flex-wrap: wrap; gap: 14px 22px; } .maps figure { display: block; margin: 0; max-width: 100%; }
.maps img { max-width: 100%; height: auto; } figcaption { font-size: 13px; color: var(--quiet); max-width: 60ch; }
</style>"""


_NOTES = {
    "intervals": """Brackets and bands are {level} % bootstrap intervals ({resamples} resamples: of scenes for the factors, of
        references with all their triplets for masks and features, of pictures for distortions). A dash stands for a value that
        is not defined, such as the share of decisions of a metric that never takes one.""",
    "factors": """Drawn scenes in which one factor changes and all else stays. Left: the mean distance at the largest step,
        relative to the mean distance between different scenes (0 is a scene to itself, 1 as far as unrelated ones). Right: that
        distance as a share of the sum over all factors; the dotted line is an equal share. “colour” is that of the objects:
        the ground's colour belongs to “background”, and “style” paints everything anew. “redrawn” keeps all factors and changes
        what they leave open: camera, light, jitter, patterns and grain.""",
    "masks": """The share of decisions (which of two candidates is nearer to the reference) that stay the same when only the
        foreground or only the background of all three pictures is shown. A tie counts as half; chance is ½. The hole in the
        background has one form in all three pictures. Filling: {fill}.""",
    "features": """Agreement: share of triplets in which the feature's distance decides as the metric does (chance ½).
        Correlation: Spearman's, of the differences of the two distances. Joint: logistic regression of the decisions on all
        features together, in log-odds for a difference of one root mean square: what a feature adds when the others are
        held (400 resamples).""",
    "robustness": """Mean distance of a picture to its distorted version, relative to the mean distance between unrelated
        pictures, against the strength: noise in levels of 255, blur in pixels (standard deviation), JPEG as 100 − quality,
        shifts in pixels, rotation and hue in degrees, scale, brightness and contrast in per cent. Windows are cut from larger
        pictures, so that no border comes into view.""",
    "maps": """Gradient: how strongly the distance depends on each pixel, mean over noisy copies, smoothed. Rollout and last
        attention: what the class token attends to, through all blocks and in the last one. Last map of a convolutional tower,
        and distance map: how different the two pictures are at each position, drawn over the first. The scale of the colours is
        beside each map.""",
}


def sensitivity_page(result: Sensitivity, overlays: Mapping[str, bytes]) -> str:
    """Return the page. overlays: the maps' pictures as PNG, by the file names of `Sensitivity.overlays`."""
    sections = [
        *_head(result),
        *_factors(result),
        *_masks(result),
        *_features(result),
        *_robustness(result),
        *_maps(result, overlays),
        *_failed(result),
    ]
    return page(f"What metrics attend to: {', '.join(map(printable, result.metrics))}", sections)


def _head(result: Sensitivity) -> Iterator[str]:
    yield f"{_STYLE}<h1>What metrics attend to</h1><p class=source>{escape(', '.join(map(printable, result.metrics)))}</p>"
    yield "".join(f"<p class=note>{escape(printable(fact))}.</p>" for fact in result.facts)
    yield "".join(f"<p class=note><b>{escape(printable(note))}.</b></p>" for note in result.notes())
    level, resamples = result.settings["level"], result.settings["resamples"]
    yield _note("intervals", level=f"{100 * level:g}", resamples=resamples)


def _factors(result: Sensitivity) -> Iterator[str]:
    if not result.factors:
        return
    yield "<h2>One factor at a time</h2>"
    yield _note("factors")
    yield _wide(plot_image(factor_plot(result.factors), "Relative distance and share of each factor"))
    yield _wide(plot_image(step_plot(result.factors), "Relative distance against the known difference of each factor"))
    first = next(iter(result.factors.values()))
    rows = [
        [escape(factor), *(_cell(p.steps[factor][-1].relative) for p in result.factors.values())]
        for factor in first.steps
    ]
    rows.append(["mean distance of unrelated scenes", *(_cell(p.unrelated, 4) for p in result.factors.values())])
    rows.append(["mean distance of a scene to itself", *(_cell(p.identical, 4) for p in result.factors.values())])
    yield "<h3>Relative distance at the largest step</h3>" + table(["factor", *_names(result.factors)], rows)
    shares = [[escape(factor), *(_cell(p.share[factor]) for p in result.factors.values())] for factor in first.share]
    yield "<h3>Share of all factors</h3>" + table(["factor", *_names(result.factors)], shares)
    if changed := {name: p for name, p in result.factors.items() if p.share_lead}:
        base = escape(printable(next(iter(result.factors))))
        rows = [[escape(factor), *(_lead(p.share_lead[factor]) for p in changed.values())] for factor in first.share]
        yield f"<h3>Share, minus that of {base}</h3><p class=note>On the same resamples; bold where the interval excludes "
        yield "zero.</p>" + table(["factor", *_names(changed)], rows)


def _masks(result: Sensitivity) -> Iterator[str]:
    if not result.masks:
        return
    yield "<h2>Foreground against background</h2>"
    yield _note("masks", fill=result.settings["fill"])
    yield _wide(plot_image(masking_plot(result.masks), "Share of decisions kept with foreground or background alone"))
    rows = [
        [
            escape(printable(n)),
            _cell(r.foreground),
            _cell(r.background),
            _lead(r.difference),
            f"{100 * r.decided:.0f} %",
        ]
        for n, r in result.masks.items()
    ]
    yield table(["metric", "foreground alone", "background alone", "difference", "decided"], rows)


def _features(result: Sensitivity) -> Iterator[str]:
    if not result.features:
        return
    yield "<h2>What decisions go with</h2>"
    yield _note("features")
    yield _wide(
        plot_image(correlation_plot(result.features), "Agreement, correlation and joint coefficient of each feature")
    )
    rows = [
        [escape(printable(name)), escape(feature), _cell(c.agreement), _cell(c.correlation), _lead(c.joint)]
        for name, features in result.features.items()
        for feature, c in features.items()
    ]
    yield table(["metric", "feature", "agreement", "rank correlation", "joint coefficient"], rows)


def _robustness(result: Sensitivity) -> Iterator[str]:
    if not result.robustness:
        return
    yield "<h2>Distortions</h2>"
    yield _note("robustness")
    yield _wide(
        plot_image(distortion_plot(result.robustness), "Relative distance against the strength of each distortion")
    )
    kinds = next(iter(result.robustness.values())).curves
    rows = [[escape(kind), *(_cell(r.curves[kind].relative[-1]) for r in result.robustness.values())] for kind in kinds]
    rows.append(["shift variance", *(_cell(r.shift_variance) for r in result.robustness.values())])
    rows.append(["mean distance of unrelated pictures", *(_cell(r.unrelated, 4) for r in result.robustness.values())])
    rows.append(["mean distance of a picture to itself", *(_cell(r.identical, 4) for r in result.robustness.values())])
    yield "<h3>Relative distance at the greatest strength</h3>"
    yield table(["distortion", *_names(result.robustness)], rows)
    rows = [[escape(kind), *(_cell(r.curves[kind].rising) for r in result.robustness.values())] for kind in kinds]
    yield "<h3>How steadily distances rise (Kendall's tau-a of strength and distance)</h3>"
    yield table(["distortion", *_names(result.robustness)], rows)


def _maps(result: Sensitivity, overlays: Mapping[str, bytes]) -> Iterator[str]:
    if not result.maps:
        return
    yield "<h2>Maps of one pair</h2>"
    yield _note("maps")
    files = iter(overlays.items())
    for name, maps in result.maps.items():
        yield f"<h3>{escape(printable(name))}</h3><div class=maps>"
        for m in maps:
            if m.unavailable:
                reason = escape(printable(m.unavailable))
                yield f"<figure><figcaption>{escape(m.name)}: not available, {reason}</figcaption></figure>"
            else:
                file, png = next(files)
                source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
                yield f'<figure><img alt="{escape(m.name)}" title="{file}" src="{source}">'
                yield f"<figcaption>{escape(m.name)}</figcaption></figure>"
        yield "</div>"


def _failed(result: Sensitivity) -> Iterator[str]:
    if result.failed:
        yield "<h2>Did not run</h2>"
        rows = [
            [escape(printable(name)), escape(part), escape(printable(why))]
            for name, parts in result.failed.items()
            for part, why in parts.items()
        ]
        yield table(["metric", "part", "reason"], rows)


def _note(name: str, **values: object) -> str:
    return f"<p class=note>{escape(' '.join(_NOTES[name].format(**values).split()), quote=False)}</p>"


def _names(results: Mapping[str, object]) -> list[str]:
    return [printable(name) for name in results]


def _wide(content: str) -> str:
    return f"<div class=wide>{content}</div>"


def _cell(interval: Interval, digits: int = 3) -> str:
    if math.isnan(interval.value):
        return "–"
    if math.isnan(interval.low):
        return f"{interval.value:.{digits}f}"
    return f"{interval.value:.{digits}f} <small>[{interval.low:.{digits}f}, {interval.high:.{digits}f}]</small>"


def _lead(interval: Interval) -> str:
    if math.isnan(interval.value):
        return "–"
    value = f"{interval.value:+.3f}"
    if interval.low > 0 or interval.high < 0:
        value = f"<b>{value}</b>"
    return f"{value} <small>[{interval.low:+.3f}, {interval.high:+.3f}]</small>"
