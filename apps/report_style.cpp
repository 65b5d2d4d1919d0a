// The report's style sheet and script. Colours: eight that the colour-blind tell apart, 3 : 1 or more against the ground in light
// and in dark; text 4.5 : 1 or more.
#include "apps/report_style.h"

namespace taper {

const char* const report_css = R"css(
:root {
  --page: #f6f7f9; --card: #ffffff; --ink: #1a1e23; --quiet: #59616b; --line: #dde1e6; --grid: #e8ebef; --mark: #fff3d1; --link: #0b62b5;
  --s0: #0072b2; --s1: #d55e00; --s2: #00856a; --s3: #a54c8b; --s4: #a77400; --s5: #50565e; --s6: #2b8cc4; --s7: #8c2d3f;
  color-scheme: light dark;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --page: #0f1215; --card: #171b20; --ink: #e7eaee; --quiet: #a3acb6; --line: #2f363e; --grid: #262c33; --mark: #3d3413; --link: #7ab8f5;
    --s0: #56b4e9; --s1: #f58a42; --s2: #2fc79c; --s3: #db8fc4; --s4: #e6b635; --s5: #b4bcc6; --s6: #8aa5ff; --s7: #f27d8c;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; scroll-padding-top: 64px; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
header, main, footer { max-width: 1180px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 28px; padding-bottom: 4px; }
h1 { font-size: 26px; line-height: 1.2; margin: 0; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 0 0 10px; }
h3 { font-size: 15px; margin: 0; font-weight: 600; }
p { margin: 0 0 10px; }
.lead, .caption, footer { color: var(--quiet); }
.lead { margin: 6px 0 14px; }
.caption { font-size: 13px; margin: 2px 0 0; max-width: 78ch; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 18px 20px; margin: 0 0 16px; }
footer { font-size: 13px; padding-bottom: 32px; }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
a { color: var(--link); }

/* The runs and the horizontal axis: always in sight. */
.bar-top { position: sticky; top: 0; z-index: 2; background: var(--page); border-bottom: 1px solid var(--line); margin-bottom: 16px; }
.bar-top form { max-width: 1180px; margin: 0 auto; padding: 8px 20px; display: flex; flex-wrap: wrap; gap: 6px 18px; align-items: center;
  max-height: 30vh; overflow: auto; }
.bar-top label { display: inline-flex; align-items: center; gap: 6px; cursor: pointer; white-space: nowrap; }
.bar-top label span { max-width: 34ch; overflow: hidden; text-overflow: ellipsis; }
.bar-top input { margin: 0; width: 15px; height: 15px; accent-color: var(--link); }
.bar-top fieldset { border: 0; padding: 0; margin: 0 0 0 auto; display: flex; gap: 12px; align-items: center; color: var(--quiet); font-size: 14px; }
.bar-top legend { float: left; padding: 0; }
svg.key { flex: none; width: 24px; height: 10px; overflow: visible; }
:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; border-radius: 3px; }

/* Charts. The curves stretch, everything else keeps its size. */
figure { margin: 0; min-width: 0; }
figure + figure, .facets { margin-top: 18px; }
.row { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr)); gap: 18px 26px; }
.row > figure { margin: 0; }
.row.maps { grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr)); margin-top: 18px; }
.facets { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 230px), 1fr)); gap: 4px 14px; }
.plot { padding: 26px 8px 42px 46px; position: relative; }
.plot.ends { padding-right: calc(var(--n) * 8px + 32px); }
.plot.heat { padding: 22px 8px 0 32px; }
.facets .plot { padding: 24px 6px 38px 42px; }
.row text.fine, .facets text.fine { display: none; }
svg { display: block; overflow: visible; }
svg svg.curves { overflow: hidden; }
svg text { fill: var(--quiet); font-size: 12px; font-variant-numeric: tabular-nums; }
svg text.y { text-anchor: end; }
svg text.x, .cells text { text-anchor: middle; }
svg text.title { fill: var(--ink); }
svg text.end-x { text-anchor: end; fill: var(--quiet); }
svg .end text { fill: var(--ink); font-size: 13px; }
.cells path { shape-rendering: crispEdges; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.cells text.light { fill: #ffffff; font-size: 11px; }
.cells text.dark { fill: #000000; font-size: 11px; }
.cells .ticks text.y, .cells .ticks .title { text-anchor: end; }
.cells .ticks .title:not(.end-x) { text-anchor: start; }
.grid line { stroke: var(--grid); }
line.base { stroke: var(--quiet); stroke-opacity: .6; }
.chart path, svg.key path { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; vector-effect: non-scaling-stroke; }
.chart path.faint { stroke-width: 1; stroke-opacity: .32; }
.chart path.dashed { stroke-width: 1.5; stroke-dasharray: 5 4; stroke-linecap: butt; }
.facets .chart path { stroke-width: 1.5; }
.rule line { stroke: var(--quiet); stroke-dasharray: 2 3; }
.rule text { text-anchor: end; font-size: 11px; }
.rule text.after { text-anchor: start; }
.rule text, text.halo { paint-order: stroke; stroke: var(--card); stroke-width: 4px; stroke-linejoin: round; }
circle { stroke: var(--card); stroke-width: 1; }
.cross { stroke: var(--quiet); pointer-events: none; }
.chart { touch-action: pan-y; }
.bar { display: grid; grid-template-columns: repeat(3, 1fr); font-size: 12px; color: var(--quiet); margin: 38px 0 0; max-width: 260px;
  font-variant-numeric: tabular-nums; }
.bar i { grid-column: 1 / 4; height: 8px; border-radius: 4px; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.bar span:nth-of-type(2) { text-align: center; }
.bar span:nth-of-type(3) { text-align: right; }
.tip { position: fixed; z-index: 3; pointer-events: none; background: var(--card); color: var(--ink); border: 1px solid var(--line);
  border-radius: 7px; padding: 6px 10px; font-size: 13px; line-height: 1.45; box-shadow: 0 4px 16px rgb(0 0 0 / .18);
  max-width: min(320px, 90vw); font-variant-numeric: tabular-nums; }
.tip div { display: flex; gap: 7px; align-items: center; }
.tip b { margin-left: auto; padding-left: 12px; font-weight: 600; }
.tip i { flex: none; width: 14px; height: 3px; border-radius: 2px; }
.tokens, .time { display: none; }
body:has(#x-tokens:checked) .tokens, body:has(#x-time:checked) .time { display: block; }
body:has(#x-tokens:checked) .steps, body:has(#x-time:checked) .steps { display: none; }

/* Tables */
.scroll { position: relative; overflow-x: auto; margin: 0 -20px; padding: 0 20px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; }
th, td { text-align: left; padding: 5px 18px 5px 0; border-bottom: 1px solid var(--line); vertical-align: top; white-space: nowrap; }
tr > :last-child { padding-right: 0; }
tbody tr:last-child > * { border-bottom: 0; }
thead th { color: var(--quiet); font-weight: 500; font-size: 13px; vertical-align: bottom; }
tbody th { font-weight: 500; max-width: 40ch; overflow-wrap: anywhere; white-space: normal; }
.n { text-align: right; }
td.wrap { white-space: normal; overflow-wrap: anywhere; min-width: 12ch; max-width: 46ch; }
td small, th small { color: var(--quiet); font-weight: 400; }
td .key, th .key, summary .key { display: inline-block; margin-right: 8px; vertical-align: middle; }
td.own > * { background: var(--mark); padding: 2px 7px; margin: 0 -7px; border-radius: 4px; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
sup { line-height: 0; font-size: 0.75em; }
code { font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace; }
details { margin-top: 10px; }
summary { cursor: pointer; color: var(--link); font-size: 14px; width: fit-content; }
details.run { margin: 14px 0 0; border-top: 1px solid var(--line); padding-top: 12px; }
details.run > summary { color: var(--ink); font-weight: 600; font-size: 15px; }
details > .scroll { margin-top: 8px; }
.ranks { display: inline-flex; align-items: center; gap: 8px; font-size: 13px; color: var(--quiet); }
.ranks i { width: 120px; height: 4px; border-radius: 2px; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.notes li { overflow-wrap: anywhere; }

@media (max-width: 700px) {
  body { font-size: 15px; }
  header, main, footer { padding-left: 12px; padding-right: 12px; }
  header { padding-top: 18px; }
  section { padding: 14px 12px; border-radius: 8px; }
  .scroll { margin: 0 -12px; padding: 0 12px; }
  .bar-top form { padding: 8px 12px; gap: 6px 14px; }
  .bar-top fieldset { margin-left: 0; }
  .bar-top label span { max-width: 24ch; }
  th, td { padding-right: 12px; }
  tbody th, thead th { white-space: normal; overflow-wrap: anywhere; }
  thead th .key { display: block; margin: 0 0 2px auto; }
  thead th:not(.n) .key { margin-left: 0; }
  .cards thead { display: none; }
  .cards, .cards tbody { display: block; }
  .cards tr { display: grid; grid-template-columns: 1fr 1fr; gap: 2px 16px; padding: 8px 0; border-bottom: 1px solid var(--line); }
  .cards tr:last-child { border: 0; }
  .cards th, .cards td { border: 0; padding: 0; white-space: normal; }
  .cards td { display: flex; justify-content: space-between; gap: 8px; }
  .cards td::before { content: attr(data-name); color: var(--quiet); font-size: 13px; }
  .plot.ends { padding-right: 8px; }
  .end, text.fine { display: none; }
  .facets { grid-template-columns: repeat(auto-fill, minmax(min(100%, 155px), 1fr)); }
}
@media print {
  :root { --page: #fff; --grid: #ececec; color-scheme: light; }
  @page { margin: 14mm; }
  body { font-size: 11pt; }
  header, main, footer { max-width: none; padding: 0; }
  .bar-top { position: static; border: 0; }
  .bar-top form { padding: 0; max-height: none; overflow: visible; }
  .bar-top input, .bar-top fieldset, .tip, details:not([open]) { display: none; }
  section { border: 0; padding: 0; margin-bottom: 9mm; }
  figure, tr, .facets > *, h2, h3 { break-inside: avoid; }
  h2, h3, summary { break-after: avoid; }
  .scroll { overflow: visible; margin: 0; padding: 0; }
  th, td { white-space: normal; font-size: 9.5pt; padding-right: 10px; }
  .facets { grid-template-columns: repeat(4, 1fr); }
  main { padding-right: 5mm; }
}
)css";

const char* const report_script = R"js(
(() => {
  const tip = document.createElement('div');
  tip.className = 'tip';
  tip.setAttribute('role', 'status');
  tip.hidden = true;
  document.body.append(tip);

  // The points of a path in the grid's units: whole numbers, each relative to the one before.
  const known = new WeakMap();
  const points = path => {
    if (!known.has(path)) {
      const all = [];
      let x = 0, y = 0;
      for (const part of path.getAttribute('d').split('m').slice(1)) {
        const n = (part.match(/-?\d+/g) || []).map(Number);
        for (let i = 0; i + 1 < n.length; i += 2) all.push([x += n[i], y += n[i + 1]]);
      }
      known.set(path, all);
    }
    return known.get(path);
  };
  const nearest = (all, x) => {
    let low = 0, high = all.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (all[middle][0] < x) low = middle + 1; else high = middle;
    }
    return low > 0 && x - all[low - 1][0] < all[low][0] - x ? all[low - 1] : all[low];
  };
  const value = (axis, share) => {
    const [low, high, log] = axis.split(' ').map(Number);
    return log ? low * (high / low) ** share : low + (high - low) * share;
  };
  const text = (v, digits) => Math.abs(v) < 1e-3 && v !== 0 ? v.toExponential(2) : v.toLocaleString('en', {maximumSignificantDigits: digits});
  const row = (colour, name, v) => {
    const div = document.createElement('div'), swatch = document.createElement('i'), label = document.createElement('span'),
      number = document.createElement('b');
    swatch.style.background = colour;
    label.textContent = name;
    number.textContent = v;
    div.append(swatch, label, number);
    return div;
  };
  const place = (x, y) => {
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = Math.max(6, x + 16 + box.width > innerWidth ? x - box.width - 16 : x + 16) + 'px';
    tip.style.top = Math.max(6, Math.min(innerHeight - box.height - 6, y - box.height / 2)) + 'px';
  };

  const look = (chart, share) => {
    const height = chart.height.baseVal.value * 100, box = chart.getBoundingClientRect();
    const paths = [...chart.querySelectorAll('.curves path:not(.faint)')].filter(p => getComputedStyle(p).display !== 'none' && points(p).length);
    let at = null;
    for (const p of paths) {
      const x = nearest(points(p), share * 20000)[0];
      if (at === null || Math.abs(x - share * 20000) < Math.abs(at - share * 20000)) at = x;
    }
    if (at === null) return;
    let cross = chart.querySelector('.cross');
    if (!cross) {
      cross = document.createElementNS('http://www.w3.org/2000/svg', 'line');
      cross.setAttribute('class', 'cross');
      cross.setAttribute('y2', chart.height.baseVal.value);
      chart.append(cross);
    }
    cross.setAttribute('x1', at / 200 + '%');
    cross.setAttribute('x2', at / 200 + '%');
    const [low, high] = chart.dataset.x.split(' ').map(Number), x = value(chart.dataset.x, at / 20000);
    const head = document.createElement('div');
    head.textContent = chart.dataset.xn + ' ' + (high - low > 100 && high - low < 2e4 ? Math.round(x).toLocaleString('en') : text(x, 4));
    tip.replaceChildren(head);
    let shown = 0;
    for (const p of paths) {
      const [px, py] = nearest(points(p), at);
      if (Math.abs(px - at) > 400 || ++shown > 16) continue;
      tip.append(row(getComputedStyle(p).stroke, p.dataset.name, text(value(chart.dataset.y, 1 - py / height), 5)));
    }
    place(box.left + at / 20000 * box.width, box.top + box.height / 2);
  };
  const leave = chart => {
    tip.hidden = true;
    const cross = chart.querySelector('.cross');
    if (cross) cross.remove();
  };
  for (const chart of document.querySelectorAll('.chart')) {
    let share = 1;
    chart.setAttribute('tabindex', '0');
    chart.addEventListener('pointermove', e => {
      const box = chart.getBoundingClientRect();
      look(chart, share = Math.min(1, Math.max(0, (e.clientX - box.left) / box.width)));
    });
    chart.addEventListener('pointerleave', () => leave(chart));
    chart.addEventListener('blur', () => leave(chart));
    chart.addEventListener('keydown', e => {
      const way = {ArrowLeft: -1, ArrowRight: 1}[e.key];
      if (!way) return;
      e.preventDefault();
      look(chart, share = Math.min(1, Math.max(0, share + way / 50)));
    });
  }
  for (const map of document.querySelectorAll('.cells')) {
    const [rows, columns, cells, from] = map.dataset.size.split(' ').map(Number), [rowName, columnName] = map.dataset.names.split(' ');
    const values = map.dataset.values.split(';').map(r => r.split(',').map(Number));
    map.addEventListener('pointermove', e => {
      const box = map.getBoundingClientRect();
      const r = Math.floor((e.clientY - box.top) / box.height * rows), c = Math.floor((e.clientX - box.left) / box.width * columns);
      if (!values[r] || values[r][c] === undefined) return void (tip.hidden = true);
      const first = from + Math.floor(c * cells / columns), last = from + Math.floor((c + 1) * cells / columns) - 1;
      const div = document.createElement('div');
      div.textContent = `${rowName} ${r}, ${columnName} ${first === last ? first : first + '–' + last}: ${text(values[r][c], 4)}`;
      tip.replaceChildren(div);
      place(e.clientX, e.clientY);
    });
    map.addEventListener('pointerleave', () => { tip.hidden = true; });
  }
})();
)js";

}  // namespace taper
