"""What the pages of docs/results/ share: the models' names and colours, a chart of lines, and conclusions written by hand."""
import math
import pathlib

NAMES = {"mamba2": "Mamba-2", "rwkv7": "RWKV-7", "gdn": "Gated DeltaNet", "gla": "GLA", "retnet": "RetNet"}
COLOURS = {"mamba2": "#4269d0", "rwkv7": "#c9820a", "gdn": "#e0485a", "gla": "#2f9e77", "retnet": "#8a63c9"}
CONCLUSIONS = "## Conclusions"


def title(model):
    base, _, post = model.partition("_")
    return NAMES[base] + (" + PoST" if post else "")


def chart(series, x_label, y_label, x_ticks, y_ticks, log_x=False, marks=()):
    """An SVG. series: (name, model, [(x, y), ...]), +PoST's dashed; ticks: (value, text), their ends are the axes'; marks: (x, text)."""
    width, height, left, right, top, bottom = 760, 360, 62, 160, 20, 44
    scale = math.log if log_x else float
    x0, x1, y0, y1 = scale(x_ticks[0][0]), scale(x_ticks[-1][0]), y_ticks[0][0], y_ticks[-1][0]
    x = lambda value: left + (width - left - right) * (scale(value) - x0) / (x1 - x0)
    y = lambda value: height - bottom - (height - top - bottom) * (min(max(value, y0), y1) - y0) / (y1 - y0)
    text = lambda px, py, words, anchor="middle", more="": (
        f'<text x="{px:.1f}" y="{py:.1f}" text-anchor="{anchor}" fill="#333333"{more}>{words}</text>')
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
           f'<rect width="{width}" height="{height}" fill="#ffffff"/>']
    for value, words in y_ticks:
        out.append(f'<line x1="{left}" x2="{width - right}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#dddddd"/>')
        out.append(text(left - 6, y(value) + 4, words, "end"))
    out += [text(x(value), height - bottom + 18, words) for value, words in x_ticks]
    for value, words in marks:
        out.append(f'<line x1="{x(value):.1f}" x2="{x(value):.1f}" y1="{top}" y2="{height - bottom}" stroke="#999999" stroke-dasharray="2 3"/>')
        out.append(text(x(value) + 4, top + 10, words, "start"))
    middle = (top + height - bottom) / 2
    out.append(text((left + width - right) / 2, height - 6, x_label))
    out.append(text(14, middle, y_label, more=f' transform="rotate(-90 14 {middle})"'))
    for i, (name, model, points) in enumerate(series):
        base, _, post = model.partition("_")
        dash = ' stroke-dasharray="6 4"' if post else ""
        style = f'fill="none" stroke="{COLOURS[base]}" stroke-width="2"{dash}'
        line = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in points)
        out.append(f'<polyline points="{line}" {style}/>')
        row = top + 20 + 20 * i
        out.append(f'<line x1="{width - right + 12}" x2="{width - right + 40}" y1="{row - 4}" y2="{row - 4}" {style}/>')
        out.append(text(width - right + 46, row, name.replace("Gated DeltaNet", "GDN"), "start"))
    return "\n".join(out + ["</svg>", ""])


def write_page(path, text):
    """Replaces a page but for its conclusions, which a person writes: they stay as they are."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    old = path.read_text() if path.is_file() else ""
    conclusions = old[old.index(CONCLUSIONS):] if CONCLUSIONS in old else ""
    path.write_text(text + ("\n" + conclusions if conclusions else ""))
