// The report in a real browser (Debian's package chromium), headless: that it fits wide and narrow screens, that its script runs,
// that pointer and switches do what they should, and that colours are far enough apart in light and in dark.
//
// TAPER_CHROMIUM names a browser; TAPER_REPORT_SHOTS names a directory that keeps the screenshots to look at.
#include <doctest/doctest.h>
#include <fmt/core.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/apps/tiny.h"

using namespace taper;
using namespace taper::test;

namespace {

std::string find_browser() {
  if (const char* named = std::getenv("TAPER_CHROMIUM")) return named;
  std::istringstream path(std::getenv("PATH") ? std::getenv("PATH") : "");
  for (std::string dir; std::getline(path, dir, ':');)
    for (const char* name : {"chromium", "chromium-browser", "google-chrome"})
      if (access((dir + "/" + name).c_str(), X_OK) == 0) return dir + "/" + name;
  return "";
}

// Looks at the page from inside and leaves what it saw as JSON in #probe.
const char* const probe = R"js(<script>
window.faults = [];
addEventListener('error', e => faults.push(String(e.message)));
addEventListener('securitypolicyviolation', e => faults.push('policy: ' + e.violatedDirective));
window.alert = () => faults.push('alert');
addEventListener('load', () => {
  const seen = e => e.getClientRects().length > 0 && getComputedStyle(e).display !== 'none';
  const all = (q, from = document) => [...from.querySelectorAll(q)].filter(seen);
  const rgb = c => c.match(/[\d.]+/g).map(Number);
  const light = c => { const [r, g, b] = rgb(c).map(v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const contrast = (a, b) => { const x = light(a), y = light(b); return (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05); };
  const ground = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (rgb(c)[3] !== 0) return c; } return 'rgb(255,255,255)'; };
  const apart = (a, b) => a.right <= b.left || b.right <= a.left || a.bottom <= b.top || b.bottom <= a.top;
  const out = {width: innerWidth, overflow: document.documentElement.scrollWidth - innerWidth, dark: matchMedia('(prefers-color-scheme: dark)').matches, overlaps: [], outside: [], faint_text: [], faint_strokes: [], empty: []};
  for (const chart of all('svg.chart, svg.cells')) {
    const name = chart.getAttribute('aria-label'), box = chart.getBoundingClientRect();
    for (const kind of ['text.x', 'text.y', '.end text']) {
      const texts = all(kind, chart).map(t => [t.textContent, t.getBoundingClientRect()]);
      texts.forEach(([a, ra], i) => texts.slice(i + 1).forEach(([b, rb]) => { if (!apart(ra, rb)) out.overlaps.push(`${name}: ${a} and ${b}`); }));
    }
    for (const t of all('text', chart)) { const r = t.getBoundingClientRect(); if (r.left < -0.5 || r.right > innerWidth + 0.5) out.outside.push(`${name}: ${t.textContent}`); }
    if (chart.matches('.chart') && !all('.curves path', chart).some(p => { const r = p.getBoundingClientRect(); return !apart(r, box) || (r.width > 0 && r.top <= box.bottom && r.bottom >= box.top); })) out.empty.push(name);
    for (const p of all('.curves path:not(.faint)', chart)) { const c = contrast(getComputedStyle(p).stroke, ground(chart.parentElement)); if (c < 3) out.faint_strokes.push(`${name} ${p.dataset.name}: ${c.toFixed(2)}`); }
  }
  for (const e of all('body *')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || e.closest('script, style, .cells') || e.tagName === 'OPTION') continue;
    const s = getComputedStyle(e), c = contrast(e.closest('svg') ? s.fill : s.color, ground(e.closest('svg') ? e.closest('svg').parentElement : e));
    if (c < 4.5) out.faint_text.push(`${e.tagName} ${e.textContent.trim().slice(0, 30)}: ${c.toFixed(2)}`);
  }
  for (const t of all('.cells text.light, .cells text.dark')) {  // on the colour of their cell
    const r = t.getBoundingClientRect(), under = document.elementsFromPoint(r.left + r.width / 2, r.top + r.height / 2).find(e => e.tagName === 'path');
    if (under && contrast(getComputedStyle(t).fill, under.getAttribute('fill')) < 4.5) out.faint_text.push('cell ' + t.textContent);
  }
  out.charts = all('svg.chart').length;
  out.maps = all('svg.cells').length;

  const chart = document.querySelector('#loss svg.chart'), box = chart.getBoundingClientRect();
  chart.dispatchEvent(new PointerEvent('pointermove', {clientX: box.left + box.width, clientY: box.top + 5, bubbles: true}));
  const tip = document.querySelector('.tip'), shown = () => tip.hidden ? null : [...tip.children].map(r => r.textContent);
  out.tip = shown();
  chart.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowLeft', bubbles: true}));
  out.tip_left = shown();
  chart.dispatchEvent(new PointerEvent('pointerleave', {}));
  out.tip_gone = shown();
  const cells = all('svg.cells')[0];
  if (cells) {
    cells.scrollIntoView();
    const c = cells.getBoundingClientRect();
    cells.dispatchEvent(new PointerEvent('pointermove', {clientX: c.left + 2, clientY: c.bottom - 2, bubbles: true}));
    out.cell = shown();
    cells.dispatchEvent(new PointerEvent('pointerleave', {}));
  }
  const state = () => ['.steps', '.tokens', '.time', '.r0', '.r1'].map(q => all('#loss ' + q).length > 0);
  out.at_first = state();
  document.getElementById('x-tokens').click();
  document.getElementById('run0').click();
  out.switched = state();
  document.getElementById('x-time').click();
  out.timed = state();
  out.faults = faults;
  const text = '@@' + JSON.stringify(out) + '@@';
  if (parent !== window) return parent.postMessage(text, '*');
  const pre = document.createElement('pre');
  pre.id = 'probe';
  pre.textContent = text;
  document.body.append(pre);
});
</script>)js";

// A window is at least 500 px wide; a frame in it may be narrower.
const char* const narrow = R"js(<!doctype html><body><script>
addEventListener('message', e => {
  const pre = document.createElement('pre');
  pre.id = 'probe';
  pre.textContent = e.data;
  document.body.append(pre);
});
</script><iframe src="probed.html" style="border:0;width:390px;height:844px"></iframe>)js";

}  // namespace

TEST_CASE("report: in a browser, wide and narrow, light and dark") {
  const std::string browser = find_browser();
  if (browser.empty()) {
    MESSAGE("skipped: no chromium; apt-get install chromium");
    return;
  }
  const Tiny t;
  const std::string hostile = "<img src=x onerror=alert(1)>";
  REQUIRE(run(t, t.train("mamba2_post", {"--set", "train.steps=30", "--set", "log.every=1"})).code == 0);
  REQUIRE(run(t, t.train("rwkv7", {"--set", "model.arch=rwkv7", "--set", "model.head_dim=0", "--set", "train.steps=24", "--set", "log.every=1"})).code == 0);
  REQUIRE(run(t, t.train(hostile, {"--set", "model.post=false", "--set", "train.steps=20", "--set", "log.every=1"})).code == 0);
  write_file(t / "rwkv7" / "results_2026-01-01T00-00-00.json", R"({"results":{"piqa":{"acc,none":0.61,"acc_stderr,none":0.0114}},"higher_is_better":{"piqa":{"acc":true}}})");
  for (const char* evaluated : {"mamba2_post", "rwkv7"})  // leaves its findings where the report looks
    for (const std::vector<std::string>& how : {std::vector<std::string>{"--by-position", "--targets", "8", "--tokens", "2000"}, {"--tasks", "niah_single_1,niah_single_2",
             "--length", "1024", "2048", "4096", "--limit", "1"}}) {
      std::vector<std::string> eval{"eval", t.dir(evaluated), "--device", "cpu"};
      eval.insert(eval.end(), how.begin(), how.end());
      const Ended e = run(t, eval);
      REQUIRE_MESSAGE(e.code == 0, e.err);
    }
  append_bytes(Path(t.dir("rwkv7")) / "metrics.jsonl", "{\"step\"");  // so that there is a note
  for (const auto& [name, steps] : {std::pair<std::string, int>{"mamba2_post", 30}, {"rwkv7", 24}, {hostile, 20}}) {  // the clock's would differ each time
    std::string lines;
    for (int step = 1; step <= steps; ++step) lines += fmt::format("{{\"step\":{},\"seconds\":{}}}\n", step, 0.25 * step + 0.01 * (step % 3));
    write_file(Path(t.dir(name)) / "timings.jsonl", lines);
  }
  const Path page = t / "report.html", probed = t / "probed.html", frame = t / "frame.html";
  const Ended made = run(t, {"report", t.dir("mamba2_post"), t.dir("rwkv7"), t.dir(hostile), "-o", page.string()});
  REQUIRE_MESSAGE(made.code == 0, made.err);
  std::string text = read_file(page);
  text.insert(text.find("<style>"), probe);
  write_file(probed, text);
  write_file(frame, narrow);

  struct Restore {  // run() runs `binary`
    std::string before = binary;
    ~Restore() { binary = before; }
  } restore;
  binary = "/usr/bin/timeout";
  const auto browse = [&](int width, int height, bool dark, const std::string& what, const Path& file) {
    return run(t, {"120", browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--user-data-dir=" + t.dir("profile"),
                   "--virtual-time-budget=3000", fmt::format("--window-size={},{}", width, height), fmt::format("--blink-settings=preferredColorScheme={}", dark ? 0 : 1), what,
                   "file://" + file.string()});
  };
  for (const auto& [width, dark] : {std::pair{1280, false}, {390, false}, {1280, true}, {768, true}}) {
    CAPTURE(width);
    CAPTURE(dark);
    const Ended e = browse(width, 900, dark, "--dump-dom", width < 500 ? frame : probed);
    const size_t begin = e.out.rfind("id=\"probe\">@@"), end = e.out.find("@@</pre>", begin);
    REQUIRE_MESSAGE(end != std::string::npos, e.code, e.err.substr(0, 500));
    std::string json = e.out.substr(begin + 13, end - begin - 13);
    for (const auto& [entity, letter] : {std::pair{"&lt;", "<"}, {"&gt;", ">"}, {"&amp;", "&"}})
      for (size_t at = json.find(entity); at != json.npos; at = json.find(entity, at + 1)) json.replace(at, std::string(entity).size(), letter);
    const auto seen = nlohmann::json::parse(json);
    CAPTURE(seen.dump(1));
    CHECK(seen["width"] == width);
    CHECK(seen["dark"] == dark);
    CHECK(seen["overflow"] <= 0);
    for (const char* list : {"faults", "overlaps", "outside", "faint_text", "faint_strokes", "empty"}) {
      CAPTURE(list);
      CHECK(seen[list].empty());
    }
    CHECK(seen["charts"] == 1 + 3 + 4 + 2 + 3 * 2);  // loss; rate, norm, speed; positions, beyond, contexts, passages; two tasks by length; two layers of each run
    CHECK(seen["maps"] == 3 + 3 + 1);            // the baseline has neither exponents nor gaps
    REQUIRE(seen["tip"].is_array());             // at the right edge: what ends there
    CHECK(seen["tip"][0] == "step 30");
    CHECK(seen["tip"].size() == 3);              // training and held out of the longest run
    CHECK(seen["tip"][1].get<std::string>().starts_with("mamba2_post"));
    CHECK(seen["tip_left"][0] == "step 29");
    CHECK(seen["tip_gone"].is_null());
    CHECK(seen["cell"][0].get<std::string>().starts_with("layer 1, head 0: "));
    CHECK(seen["at_first"] == nlohmann::json::array({true, false, false, true, true}));
    CHECK(seen["switched"] == nlohmann::json::array({false, true, false, false, true}));
    CHECK(seen["timed"] == nlohmann::json::array({false, false, true, false, true}));
  }

  // A screenshot has the size that was asked for, and paper more than one page.
  const Path shot = t / "shot.png", paper = t / "paper.pdf";
  browse(390, 1200, false, "--screenshot=" + shot.string(), page);
  const std::string png = read_file(shot);
  REQUIRE(png.size() > 20000);
  CHECK(png.substr(0, 8) == "\x89PNG\r\n\x1a\n");
  CHECK(png.substr(16, 8) == std::string("\0\0\x01\x86\0\0\x04\xb0", 8));
  browse(1280, 900, true, "--print-to-pdf=" + paper.string(), page);
  CHECK(read_file(paper).starts_with("%PDF-"));
  if (const char* keep = std::getenv("TAPER_REPORT_SHOTS")) {
    fs::create_directories(keep);
    const auto copy = [&](const Path& from, const char* name) { fs::copy_file(from, Path(keep) / name, fs::copy_options::overwrite_existing); };
    copy(shot, "phone.png"), copy(paper, "paper.pdf"), copy(page, "report.html");
    browse(1280, 3000, false, "--screenshot=" + shot.string(), page);
    copy(shot, "light.png");
    browse(1280, 3000, true, "--screenshot=" + shot.string(), page);
    copy(shot, "dark.png");
  }
}
