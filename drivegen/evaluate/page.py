"""The report as one HTML file that needs nothing else: figures with intervals, the worst cases first, pictures inside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from drivegen.evaluate import cuttings
from drivegen.evaluate.audit import Audit
from drivegen.evaluate.evaluation import Looked
from drivegen.evaluate.pairs import Pairs
from drivegen.evaluate.report import COLUMNS, number, said
from drivegen.scene import Frame

BOXES, INVENTED, FRAMES = 18, 12, 3
"""How many of the worst are shown."""

STYLE = (Path(__file__).parent / "assets" / "page.css").read_text(encoding="utf-8")

TITLES = {
    "realism": "Realism", "control": "Control", "consistency": "Consistency", "conditions": "Are the conditions used?",
}  # fmt: skip
SAID = {
    "realism": "Distances between all generated pictures and the recorded ones that they were made of; less is better.",
    "control": "A referee labels every pixel, and its labels are held against boxes and map. What counts is the share of what "
    "it finds in the real pictures.",
    "consistency": "Mean colour differences (0 to 1) at points that two pictures show; less is better. By chance: the same "
    "points with the second picture taken from another frame.",
    "conditions": "The control figures of new generations, with a condition removed, taken from another frame, or with the "
    "front camera turned. A condition that is used loses when it is taken away.",
}  # fmt: skip


def page(values: Mapping[str, Any], pairs: Pairs, audit: Audit) -> str:
    """Write the page.

    Args:
        values: the report's JSON values.
        pairs: the frames, of which pictures are read.
        audit: what was found wrong.
    """
    about, figures = values["about"], values["figures"]
    title = f"{about['generated']}, made of {about['real']}"
    parts = [_section(part, [row for row in figures if row["part"] == part]) for part in TITLES]
    body = [
        f"<header><h1>{escape(title)}</h1><p>{_facts(about)}</p></header>", _cards(figures, values["audit"]),
        _notes(values["notes"]), *parts, _omitted(pairs, audit, values["audit"]), _invented(pairs, audit, values["audit"]),
        _frames(pairs, audit), _fingerprints(values["fingerprints"]),
    ]  # fmt: skip
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{STYLE}</style>"
    )
    return f'<!doctype html><html lang="en"><head>{head}</head><body><main>{"".join(body)}</main></body></html>\n'


def _facts(about: Mapping[str, Any]) -> str:
    return escape(
        f"{about['frames']} generated frames in {about['scenes']} scenes, of {about['recorded frames']} recorded frames. "
        f"95 % intervals by bootstrap over {about['intervals over']}. Referee: {about['referee']}. "
        f"Features: {about['features']}."
    )


def _cards(figures: Sequence[Mapping[str, Any]], audit: Mapping[str, Any]) -> str:
    found = {row["name"]: row for row in figures}
    cards = []
    for name in ("FID", "KID"):
        if name in found:
            cards.append((name, said(found[name]["generated"], False), "to the real pictures"))
    for name in ("drivable IoU", "vehicle IoU", "recall of boxes"):
        row = found.get(name)
        if row is not None and row["share"] is not None:
            cards.append((name, f"{100 * row['share']['value']:.0f} %", "of the real pictures'"))
    cards.append(("omitted boxes", f"{audit['omitted']}", f"of {audit['boxes']} that were looked for"))
    cards.append(("invented vehicles", f"{audit['invented']}", f"{audit['invented in real pictures']} in as many real frames"))
    inner = "".join(f"<div><b>{escape(v)}</b><span>{escape(n)}</span><small>{escape(s)}</small></div>" for n, v, s in cards)
    return f'<section class="cards">{inner}</section>'


def _notes(notes: Sequence[str]) -> str:
    return f"<ul class=notes>{''.join(f'<li>{escape(note)}</li>' for note in notes)}</ul>" if notes else ""


def _section(part: str, rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    whole = {"realism": None, "control": None}.get(part)
    lines = []
    for row in rows:
        top = max((v[k] or 0 for v in (row["generated"], row["real"]) if v for k in ("value", "high") if v.get(k)), default=1)
        top = 1.0 if "IoU" in row["name"] or "recall" in row["name"] else top * 1.1 if whole is None else whole
        bar = _bar(row["generated"], row["real"], top)
        share = "–" if row["share"] is None else said(row["share"])
        lines.append(
            f"<tr><td>{escape(row['name'])}</td><td class=n>{said(row['generated'])}</td><td class=n>{said(row['real'])}</td>"
            f"<td>{bar}</td><td class=n>{share}</td></tr>"
        )
    first, second, third = COLUMNS.get(part, COLUMNS[""])
    head = f"<tr><th>figure</th><th>{first}</th><th>{second}</th><th></th><th>{third}</th></tr>"
    return (
        f"<section><h2>{TITLES[part]}</h2><p>{SAID[part]}</p>"
        f"<div class=wide><table><thead>{head}</thead><tbody>{''.join(lines)}</tbody></table></div></section>"
    )


def _bar(generated: Mapping[str, Any] | None, real: Mapping[str, Any] | None, top: float) -> str:
    """Draw a figure as a bar with its interval, and the real pictures' figure as a mark."""
    if generated is None or top <= 0:
        return ""

    def x(value: float) -> float:
        return round(min(max(value / top, 0), 1) * 150, 1)

    shapes = [f'<rect class=g x=0 y=4 width="{x(generated["value"])}" height=8 rx=2 />']
    if generated["low"] is not None:
        low, high = x(generated["low"]), x(generated["high"])
        shapes.append(f'<path class=i d="M{low} 8H{high}M{low} 5V11M{high} 5V11" />')
    if real is not None:
        shapes.append(f'<path class=r d="M{x(real["value"])} 1V15" />')
    return f'<svg width=154 height=16 role=img aria-label="{number(generated["value"])}">{"".join(shapes)}</svg>'


def _omitted(pairs: Pairs, audit: Audit, facts: Mapping[str, Any]) -> str:
    if not facts["boxes"]:
        return ""
    cards = []
    for each, box in audit.omitted[:BOXES]:
        frame = pairs.generated_frame(each.pair)
        real = _recorded(pairs, each, frame, box.channel) if box.number not in each.edited else None
        images = [_image(cuttings.cut(frame, box.channel, box.rectangle, box.number), "generated")]
        if real is not None:
            images.append(_image(cuttings.cut(real, box.channel, box.rectangle), "recorded"))
        edited = ", inserted or moved" if box.number in each.edited else ""
        name = escape(box.category.replace("_", " "))
        words = f"<b>{name}</b>{edited}, {box.distance_m:.0f} m: evidence {100 * box.evidence:.0f} %"
        cards.append(_card(images, words, each, box.channel))
    share = 100 * facts["omitted"] / facts["boxes"]
    edited = ""
    if facts["inserted or moved boxes"]:
        edited = (
            f" Of {facts['inserted or moved boxes']} inserted or moved ones it is {facts['inserted or moved boxes omitted']}."
        )
    return (
        f"<section><h2>Omitted: boxes that the referee does not see</h2><p>{facts['omitted']} of {facts['boxes']} boxes "
        f"({share:.1f} %) have less than {100 * facts['found at']:.0f} % of their pixels labelled as what they are.{edited} "
        f"The worst come first; beside each what was recorded there.</p><div class=grid>{''.join(cards)}</div></section>"
    )


def _invented(pairs: Pairs, audit: Audit, facts: Mapping[str, Any]) -> str:
    cards = []
    for each, found in audit.invented[:INVENTED]:
        frame = pairs.generated_frame(each.pair)
        images = [_image(cuttings.cut(frame, found.channel, found.rectangle, outlined=True), "generated")]
        real = _recorded(pairs, each, frame, found.channel)
        if real is not None:
            images.append(_image(cuttings.cut(real, found.channel, found.rectangle), "recorded"))
        cards.append(_card(images, f"<b>{100 * found.share_of_picture:.1f} %</b> of the picture", each, found.channel))
    return (
        f"<section><h2>Invented: vehicles without a box</h2><p>{facts['invented']} in {facts['frames with invented objects']} "
        f"of {len(audit.looked)} frames; in as many real frames the referee sees {facts['invented in real pictures']}: "
        f"its own mistakes, or unlabelled vehicles. The largest come first.</p><div class=grid>{''.join(cards)}</div></section>"
    )


def _frames(pairs: Pairs, audit: Audit) -> str:
    worst = audit.worst_frames[:FRAMES]
    rows = []
    for each in worst:
        frame = pairs.generated_frame(each.pair)
        images = "".join(_image(cuttings.view(frame, channel, 300), channel) for channel in frame.channels)
        rows.append(
            f"<h3>{escape(each.pair.scene)} <small>{escape(each.pair.generated)}</small></h3><div class=views>{images}</div>"
        )
    return f"<section><h2>The worst frames, with their boxes</h2>{''.join(rows)}</section>" if rows else ""


def _fingerprints(prints: Mapping[str, Mapping[str, Any]]) -> str:
    tables = []
    for name, facts in prints.items():
        rows = "".join(f"<tr><td>{escape(key)}</td><td>{escape(str(value))}</td></tr>" for key, value in facts.items())
        tables.append(f"<h3>{escape(name)}</h3><table class=facts>{rows}</table>")
    return (
        "<section><h2>Fingerprints</h2><p>All that figures depend on. Only figures of one fingerprint compare: "
        f"<code>drivegen compare</code> refuses others.</p>{''.join(tables)}</section>"
    )


def _recorded(pairs: Pairs, each: Looked, frame: Frame, channel: str) -> Frame | None:
    """Return the recorded frame where it shows what the generated view shows: through the same camera."""
    real = pairs.real_frame(each.pair, frame)
    if channel not in real.channels:
        return None
    a, b = real.camera(channel), frame.camera(channel)
    same = abs(a.K_image - b.K_image).max() < 1 and abs(a.ego_SE3_camera.matrix - b.ego_SE3_camera.matrix).max() < 1e-3
    return real if same else None


def _image(image: Any, words: str) -> str:
    return f'<img src="{cuttings.jpeg(image)}" width={image.width} height={image.height} alt="{escape(words)}">'


def _card(images: Iterable[str], words: str, each: Looked, channel: str) -> str:
    place = escape(f"{each.pair.scene}, {channel.removeprefix('CAM_').replace('_', ' ').lower()}")
    return f"<figure><div>{''.join(images)}</div><figcaption>{words}<br><small>{place}</small></figcaption></figure>"
