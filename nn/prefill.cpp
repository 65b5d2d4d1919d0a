// Prefill: all rows advance together until the shortest ends, then the rest until the next ends.
#include "nn/prefill.h"

#include <algorithm>
#include <set>

#include "tensor/error.h"

namespace taper {
namespace {

Shape with_rows(const Shape& shape, int64_t rows) {
  Shape s;
  for (int i = 0; i < shape.rank(); ++i) s.push_back(i ? shape[i] : rows);
  return s;
}

// Rows of a state, and back. A state that is still absent stays so, or becomes 0 where another row has one.
ModelState take(const ModelState& from, const std::vector<int64_t>& rows) {
  const auto those = [&](const Tensor& all) {
    const Tensor taken(all.device(), with_rows(all.shape(), int64_t(rows.size())), all.dtype());
    for (size_t i = 0; i < rows.size(); ++i) copy_into(taken.rows(int64_t(i), int64_t(i) + 1), all.rows(rows[i], rows[i] + 1));
    return taken;
  };
  ModelState to = from;
  to.position = those(from.position);
  to.each([&](Var& v) { v = constant(those(v.value)); });
  return to;
}

void put(ModelState& to, ModelState& from, const std::vector<int64_t>& rows) {
  const int64_t B = to.position.size(0);
  to.position = clone(to.position);
  for (size_t i = 0; i < rows.size(); ++i) copy_into(to.position.rows(rows[i], rows[i] + 1), from.position.rows(int64_t(i), int64_t(i) + 1));
  to.layers.resize(from.layers.size());
  const auto place = [&](Var& whole, const Var& part) {
    if (!part) return;
    const Tensor next = whole ? clone(whole.value) : zeros(part.value.device(), with_rows(part.shape(), B), part.value.dtype());
    for (size_t i = 0; i < rows.size(); ++i) copy_into(next.rows(rows[i], rows[i] + 1), part.value.rows(int64_t(i), int64_t(i) + 1));
    whole = constant(next);
  };
  for (size_t l = 0; l < from.layers.size(); ++l) {
    LayerState &a = to.layers[l], &b = from.layers[l];
    a.mixer.history.resize(b.mixer.history.size());
    place(a.mixer.recurrent, b.mixer.recurrent);
    for (size_t i = 0; i < b.mixer.history.size(); ++i) place(a.mixer.history[i], b.mixer.history[i]);
    place(a.channel_mix, b.channel_mix);
  }
}

}  // namespace

Tensor prefill(const LanguageModel& model, const Tensor& ids, const std::vector<Span>& spans, ModelState& state) {
  check(ids.rank() == 2 && int64_t(spans.size()) == ids.size(0), "prefill: wants ids [B,T] and a span for each row; got {} and {} spans",
        ids.shape().text(), spans.size());
  const int64_t B = ids.size(0), T = ids.size(1);
  std::set<int64_t> lengths;
  for (const Span& s : spans) {
    check(0 <= s.begin && s.begin <= s.end && s.end <= T, "prefill: a span must lie in [0,{}]; got [{},{}]", T, s.begin, s.end);
    lengths.insert(s.end - s.begin);
  }
  lengths.erase(0);
  if (!state.position) state.position = zeros(ids.device(), {B}, Dtype::i64);
  const std::vector<int32_t> all = to_host<int32_t>(ids);
  Tape tape = Tape::constants();
  Tensor out;
  int64_t done = 0;
  for (const int64_t until : lengths) {
    std::vector<int64_t> rows;
    std::vector<int32_t> tokens;
    for (int64_t b = 0; b < B; ++b) {
      const Span& s = spans[size_t(b)];
      if (s.end - s.begin < until) continue;
      rows.push_back(b);
      tokens.insert(tokens.end(), all.begin() + b * T + s.begin + done, all.begin() + b * T + s.begin + until);
    }
    const int64_t n = until - done;
    ModelState part = take(state, rows);
    const Tensor logits = model.logits(tape, from_host<int32_t>(ids.device(), {int64_t(rows.size()), n}, tokens), {}, &part).value;
    put(state, part, rows);
    const int64_t V = logits.size(2);
    if (!out) out = zeros(ids.device(), {B, T, V}, logits.dtype());
    for (size_t i = 0; i < rows.size(); ++i) {
      const int64_t at = rows[i] * T + spans[size_t(rows[i])].begin + done;
      copy_into(out.reshape(Shape{B * T, V}).rows(at, at + n), logits.reshape(Shape{int64_t(rows.size()) * n, V}).rows(int64_t(i) * n, int64_t(i + 1) * n));
    }
    done = until;
  }
  if (!out) out = zeros(ids.device(), {B, T, model.embedding.value.size(0)}, model.dtype);
  return out;
}

}  // namespace taper
