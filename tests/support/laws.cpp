// The laws, one function each.
#include "tests/support/laws.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "autograd/gradcheck.h"
#include "tensor/error.h"
#include "tensor/parallel.h"
#include "tensor/random.h"
#include "tests/support/expect.h"

namespace taper::test {
namespace {

struct Run {  // one forward and backward
  std::vector<Tensor> outputs;
  std::vector<Tensor> gradients;  // parallel to the inputs; absent: nothing was sent
};

std::vector<double> draws(const Fill& fill, const Random& random, int64_t n) {
  std::vector<double> v(size_t(n), 0.0);
  parallel_for(n, 1 << 14, [&](int64_t begin, int64_t end) {
    for (size_t i = size_t(begin); i < size_t(end); ++i) {
      const double x = fill.kind == Fill::normal_    ? fill.low + fill.high * random.normal(i)
                       : fill.kind == Fill::uniform_ ? fill.low + (fill.high - fill.low) * random.uniform(i)
                                                     : fill.low + double(random.below(i, uint64_t(fill.high - fill.low) + 1));
      v[i] = float(x);  // f32 and f64 see the same number
    }
  });
  return v;
}

std::vector<double> cotangent(size_t output, int64_t n) {
  return draws(normal(), Random(7, "cotangent " + std::to_string(output)), n);
}

double rounded_to_bf16(double x) { return float(bf16(float(x))); }

// Runs build on the inputs and pulls `cotangents` back (by output; empty: that output is left out).
Run run(const Build& build, const std::vector<Tensor>& inputs, const Packing& packing,
        const std::vector<std::vector<double>>& cotangents = {}, double scale = 1, bool in_bf16 = false) {
  Tape tape;
  std::vector<Var> leaves;
  for (size_t i = 0; i < inputs.size(); ++i)
    leaves.push_back(inputs[i] ? tape.leaf("in" + std::to_string(i), inputs[i]) : Var{});
  const std::vector<Var> outputs = build(leaves, packing);
  Run r;
  std::vector<Var> roots;
  std::vector<Tensor> seeds;
  for (size_t i = 0; i < outputs.size(); ++i) {
    const Tensor& v = outputs[i].value;
    r.outputs.push_back(v);
    if (!outputs[i].tracked()) continue;
    std::vector<double> d = cotangents.empty() ? cotangent(i, v.numel()) : cotangents.at(i);
    if (d.empty()) continue;
    for (double& x : d) x = scale * (in_bf16 ? rounded_to_bf16(x) : x);
    roots.push_back(outputs[i]);
    seeds.push_back(from_doubles(v.device(), v.shape(), v.dtype(), d));
  }
  r.gradients.resize(inputs.size());
  if (roots.empty()) return r;
  auto found = backward(roots, seeds);
  for (size_t i = 0; i < inputs.size(); ++i)
    if (auto it = found.find("in" + std::to_string(i)); it != found.end()) r.gradients[i] = it->second;
  return r;
}

bool same_bits(const Tensor& a, const Tensor& b) {
  if (bool(a) != bool(b)) return false;
  if (!a) return true;
  std::vector<char> x(a.bytes()), y(b.bytes());
  a.device().download(x.data(), a.data<void>(), x.size());
  b.device().download(y.data(), b.data<void>(), y.size());
  return x == y;
}

class Holder {
 public:
  Holder(const OpCase& c, Device& device, const HoldOptions& options) : c_(c), device_(device), options_(options) {}

  std::vector<LawRecord> hold() {
    for (size_t i = 0; i < std::min(c_.examples.size(), options_.examples); ++i) {
      const Example& e = c_.examples[i];
      guard("gradcheck", e, [&] { gradcheck_law(e); });
      guard("definition", e, [&] { definition_law(e); });
      if (bf16_runs()) guard("bf16", e, [&] { bf16_law(e); });
      if (bf16_runs()) guard("plain", e, [&] { plain_law(e); });
      guard("poison", e, [&] { poison_law(e); });
      guard("repeat", e, [&] { repeat_law(e); });
      guard("linear", e, [&] { linear_law(e); });
      if (c_.looks_back) guard("packing", e, [&] { packing_law(e); });
    }
    if (!c_.examples.empty() && asked("alive") && asked("gradcheck")) alive_law();
    if (std::ranges::count(options_.laws, "huge"))
      for (const Example& e : c_.huge) guard("huge", e, [&] { huge_law(e); });
    for (const Check& check : c_.checks) {
      if (!asked("check")) break;
      LawRecord r{"check", "", check.name, 0, 0, 1, true, ""};
      try {
        check.run();
      } catch (const std::exception& x) {
        r.pass = false;
        r.detail = x.what();
      }
      records_.push_back(r);
    }
    return records_;
  }

 private:
  bool asked(const std::string& law) const { return options_.laws.empty() || std::ranges::count(options_.laws, law) > 0; }
  bool bf16_runs() const { return c_.bf16 && device_.kind() == DeviceKind::cuda; }
  std::vector<Dtype> dtypes() const {
    return bf16_runs() ? std::vector{Dtype::f32, Dtype::f64, Dtype::bf16} : std::vector{Dtype::f32, Dtype::f64};
  }

  void add(const char* law, const Example& e, const std::string& subject, double value, double limit, int64_t tries = 1,
           std::string detail = "") {
    records_.push_back({law, e.name, subject, value, limit, tries, value <= limit, std::move(detail)});  // NaN fails
  }

  template <class F>
  void guard(const char* law, const Example& e, F&& f) {
    if (!asked(law)) return;
    try {
      f();
    } catch (const std::exception& x) {
      records_.push_back({law, e.name, "raised", 0, 0, 1, false, x.what()});
    }
  }

  int64_t time_of(const Example& e) const {  // T of the example, or 0
    for (const Input& in : e.inputs)
      if (in.time_axis >= 0) return in.shape[in.time_axis];
    return 0;
  }
  int64_t batch_of(const Example& e) const {
    for (const Input& in : e.inputs)
      if (in.time_axis >= 0) return in.shape[0];
    return 1;
  }

  // Document starts for each row: different rows, different documents, some of one token.
  std::vector<std::vector<int64_t>> document_starts(int64_t B, int64_t T) const {
    std::vector<std::vector<int64_t>> starts;
    for (int64_t b = 0; b < B; ++b) {
      std::set<int64_t> s;
      for (int64_t at : {T / 3 + b, T / 3 + b + 1, 2 * T / 3 + 2 * b, T - 1 - b})
        if (0 < at && at < T) s.insert(at);
      starts.emplace_back(s.begin(), s.end());
    }
    return starts;
  }

  void gradcheck_law(const Example& e) {
    const std::vector<Tensor> inputs = draw(c_, e, device_, Dtype::f64);
    std::vector<NamedTensor> named;
    for (size_t i = 0; i < inputs.size(); ++i) named.push_back({e.inputs[i].edge, inputs[i]});
    std::vector<Packing> packings = {{}};
    if (c_.looks_back && time_of(e) > 2)
      packings.push_back(make_packing(device_, batch_of(e), time_of(e), document_starts(batch_of(e), time_of(e))));
    for (const Packing& packing : packings) {
      const auto record = gradcheck([&](Tape&, const std::vector<Var>& in) { return e.build(in, packing); }, named);
      for (const EdgeRecord& edge : record.edges) {
        // An edge that a document start cuts off entirely may be zero on both sides.
        add("gradcheck", e, edge.name + (packing.start ? " (packed)" : ""), edge.worst, 1e-6, edge.directions, record.text());
        if (edge.gradient_norm > 0) alive_.insert(edge.name);
      }
      add("gradcheck", e, "value with and without recording", record.value_depends_on_recording, 0);
    }
  }

  void compare(const char* law, const Example& e, const std::string& what, const Run& got, const Run& want, double forward,
               double backward) {
    for (size_t i = 0; i < want.outputs.size(); ++i)
      add(law, e, what + " output " + std::to_string(i),
          relative_error(to_doubles(got.outputs.at(i)), to_doubles(want.outputs[i])), forward);
    for (size_t i = 0; i < want.gradients.size(); ++i) {
      if (!want.gradients[i] && !got.gradients[i]) continue;
      expect(bool(want.gradients[i]) && bool(got.gradients[i]), "{}: only one side has a gradient", e.inputs[i].edge);
      add(law, e, what + " d_" + e.inputs[i].edge,
          relative_error(to_doubles(got.gradients[i]), to_doubles(want.gradients[i])), backward);
    }
  }

  void definition_law(const Example& e) {
    Device& cpu = open_device("cpu");
    const Build& definition = e.definition ? e.definition : e.build;
    std::vector<std::vector<std::vector<int64_t>>> all_starts = {{}};
    if (c_.looks_back && time_of(e) > 2) all_starts.push_back(document_starts(batch_of(e), time_of(e)));
    for (const auto& starts : all_starts) {
      const std::string packed = starts.empty() ? "" : "packed ";
      auto packing = [&](Device& d) { return starts.empty() ? Packing{} : make_packing(d, batch_of(e), time_of(e), starts); };
      const Run want = run(definition, draw(c_, e, cpu, Dtype::f64), packing(cpu));
      if (e.definition || device_.kind() != DeviceKind::cpu)
        compare("definition", e, packed + "f64", run(e.build, draw(c_, e, device_, Dtype::f64), packing(device_)), want, 1e-11, 1e-10);
      compare("definition", e, packed + "f32", run(e.build, draw(c_, e, device_, Dtype::f32), packing(device_)), want, c_.f32.forward,
              c_.f32.backward);
    }
  }

  // The same numbers, rounded to bf16, in f64 by the definition and in bf16 by this device.
  void bf16_law(const Example& e) {
    Device& cpu = open_device("cpu");
    std::vector<Tensor> exact;
    for (const Tensor& t : draw(c_, e, device_, Dtype::bf16)) exact.push_back(from_doubles(cpu, t.shape(), Dtype::f64, to_doubles(t)));
    std::vector<std::vector<std::vector<int64_t>>> all_starts = {{}};
    if (c_.looks_back && time_of(e) > 2) all_starts.push_back(document_starts(batch_of(e), time_of(e)));
    for (const auto& starts : all_starts) {
      auto packing = [&](Device& d) { return starts.empty() ? Packing{} : make_packing(d, batch_of(e), time_of(e), starts); };
      const Run want = run(e.definition ? e.definition : e.build, exact, packing(cpu), {}, 1, true);
      const Run got = run(e.build, draw(c_, e, device_, Dtype::bf16), packing(device_), {}, 1, true);
      compare("bf16", e, starts.empty() ? "bf16" : "packed bf16", got, want, c_.bf16->forward, c_.bf16->backward);
    }
  }

  // What a computation in bf16 gives that stores every number in bf16: by elementary ops, by the op itself on the CPU, or of a
  // recurrence a token at a time.
  Run plain(const Example& e, const std::vector<Tensor>& exact, const Run& want) {
    if (in_steps(e)) return plain_steps(e, exact, want);
    if (e.plain) return run(e.plain, exact, {}, {}, 1, true);
    if (c_.rounded_alone) return want;  // and rounded, as every result is
    std::vector<Tensor> inputs;
    for (const Tensor& t : exact) inputs.push_back(from_doubles(t.device(), t.shape(), Dtype::bf16, to_doubles(t)));
    return run(e.definition ? e.definition : e.build, inputs, {}, {}, 1, true);
  }
  static bool in_steps(const Example& e) {
    return std::ranges::any_of(e.inputs, [](const Input& in) { return in.carried && in.wide; });
  }

  // A recurrence a token at a time: its state is rounded to bf16 after each, and so is the state's gradient on the way back.
  Run plain_steps(const Example& e, const std::vector<Tensor>& exact, const Run& want) {
    const int64_t B = batch_of(e), T = time_of(e);
    Device& cpu = open_device("cpu");
    Tape tape;
    const auto rounded = [](const Var& v) { return cast(cast(v, Dtype::bf16), Dtype::f64); };
    const auto leaf_name = [&](size_t i, int64_t t) {
      return e.inputs[i].time_axis < 0 ? "in" + std::to_string(i) : fmt::format("in{} {}", i, t);
    };
    Var state;
    for (size_t i = 0; i < exact.size(); ++i)
      if (e.inputs[i].carried) state = rounded(tape.leaf(leaf_name(i, 0), exact[i]));
    std::vector<Var> roots;
    std::vector<Tensor> seeds;
    std::vector<std::vector<double>> y(static_cast<size_t>(T));
    const auto seed = [&](size_t output) {
      std::vector<double> d = cotangent(output, want.outputs[output].numel());
      for (double& x : d) x = rounded_to_bf16(x);
      return from_doubles(cpu, want.outputs[output].shape(), Dtype::f64, d);
    };
    const Tensor d_y = seed(0);
    for (int64_t t = 0; t < T; ++t) {
      std::vector<Var> in;
      for (size_t i = 0; i < exact.size(); ++i)
        in.push_back(e.inputs[i].carried         ? state
                     : e.inputs[i].time_axis < 0 ? tape.leaf(leaf_name(i, 0), exact[i])
                                                 : tape.leaf(leaf_name(i, t), at_time(exact[i], t)));
      const std::vector<Var> out = e.definition(in, {});
      state = rounded(out.at(1));
      roots.push_back(rounded(out[0]));
      seeds.push_back(at_time(d_y, t));
      y[size_t(t)] = to_doubles(roots.back().value);
    }
    roots.push_back(state);
    seeds.push_back(seed(1));
    const auto found = backward(roots, seeds);
    // [B,1,...] of each time, to [B,T,...]
    const auto joined = [&](const std::vector<std::vector<double>>& times, const Shape& shape) {
      std::vector<double> all;
      for (int64_t b = 0; b < B; ++b)
        for (const std::vector<double>& one : times) {
          const auto row = std::ptrdiff_t(one.size()) / B;
          all.insert(all.end(), one.begin() + b * row, one.begin() + (b + 1) * row);
        }
      return from_doubles(cpu, shape, Dtype::f64, all);
    };
    Run r{.outputs = {joined(y, want.outputs[0].shape()), state.value}, .gradients = std::vector<Tensor>(exact.size())};
    for (size_t i = 0; i < exact.size(); ++i) {
      if (e.inputs[i].time_axis < 0) {
        r.gradients[i] = found.at(leaf_name(i, 0));
        continue;
      }
      std::vector<std::vector<double>> d;
      for (int64_t t = 0; t < T; ++t) d.push_back(to_doubles(found.at(leaf_name(i, t))));
      r.gradients[i] = joined(d, exact[i].shape());
    }
    return r;
  }
  static Tensor at_time(const Tensor& all, int64_t t) {  // [B,T,...] -> [B,1,...]
    const int64_t B = all.size(0), T = all.size(1), row = all.numel() / (B * T);
    const std::vector<double> x = to_doubles(all);
    std::vector<double> one;
    for (int64_t b = 0; b < B; ++b) one.insert(one.end(), x.begin() + (b * T + t) * row, x.begin() + (b * T + t + 1) * row);
    Shape shape{B, 1};
    for (int i = 2; i < all.rank(); ++i) shape.push_back(all.size(i));
    return from_doubles(all.device(), shape, all.dtype(), one);
  }

  // bf16 of this device is off by no more than twice what a plain computation is. Of a recurrence the examples count that are given
  // a state: the others cannot be taken in steps.
  void plain_law(const Example& e) {
    if (!in_steps(e) && std::ranges::any_of(c_.examples, in_steps)) return;
    Device& cpu = open_device("cpu");
    std::vector<Tensor> exact;
    for (const Tensor& t : draw(c_, e, device_, Dtype::bf16)) exact.push_back(from_doubles(cpu, t.shape(), Dtype::f64, to_doubles(t)));
    const Run want = run(e.definition ? e.definition : e.build, exact, {}, {}, 1, true);
    const Run got = run(e.build, draw(c_, e, device_, Dtype::bf16), {}, {}, 1, true), other = plain(e, exact, want);
    const auto held = [&](const std::string& what, const Tensor& mine, const Tensor& plainly, const Tensor& exactly, double as_f32) {
      std::vector<double> x = to_doubles(plainly);
      for (double& v : x) v = rounded_to_bf16(v);
      const double limit = std::max(as_f32, 2 * relative_error(x, to_doubles(exactly)));
      add("plain", e, what, relative_error(to_doubles(mine), to_doubles(exactly)), limit);
    };
    for (size_t i = 0; i < want.outputs.size(); ++i)
      held("output " + std::to_string(i), got.outputs.at(i), other.outputs.at(i), want.outputs[i], c_.f32.forward);
    for (size_t i = 0; i < want.gradients.size(); ++i)
      if (want.gradients[i]) held("d_" + e.inputs[i].edge, got.gradients.at(i), other.gradients.at(i), want.gradients[i], c_.f32.backward);
  }

  // Random numbers, over and over: drawing 2^31 would take minutes. A prime number of them, so that no two places that a
  // wrong index could confuse, 2^31 or 2^32 apart, hold the same.
  Tensor tiled(const Fill& fill, const std::string& purpose, const Shape& shape, Dtype dtype) const {
    const int64_t n = shape.numel(), period = std::min(n, int64_t(1048573));
    const Tensor t(device_, shape, dtype), seed = from_doubles(device_, {period}, dtype, draws(fill, Random(11, purpose), period));
    const Tensor flat = t.reshape(Shape{n});
    for (int64_t i = 0; i < n; i += period) copy_into(flat.rows(i, std::min(n, i + period)), seed.rows(0, std::min(period, n - i)));
    return t;
  }

  // How many bytes of two tensors differ, a piece at a time; a NaN counts, a zero's sign does not. The device compares: where
  // neither a - b nor the part of it above zero has a sum but zero, there is no difference to fetch.
  double bytes_that_differ(const Tensor& a, const Tensor& b) const {
    double differ = 0;
    const Tensor x = a.reshape(Shape{a.numel()}), y = b.reshape(Shape{b.numel()});
    std::vector<char> u, v;
    for (int64_t i = 0, step = int64_t(1) << 28; i < a.numel(); i += step) {
      const Tensor p = x.rows(i, std::min(a.numel(), i + step)), q = y.rows(i, std::min(a.numel(), i + step));
      const Var difference = subtract(constant(p), constant(q));
      const double all = item(sum(difference).value), above = item(sum(relu(difference)).value);
      if (all == 0 && above == 0) continue;
      u.resize(p.bytes()), v.resize(q.bytes());
      device_.download(u.data(), p.data<void>(), u.size());
      device_.download(v.data(), q.data<void>(), v.size());
      double bytes = 0;
      for (size_t k = 0; k < u.size(); ++k) bytes += u[k] != v[k];
      differ += std::max(bytes, 1.0);
    }
    return differ;
  }

  void huge_law(const Example& e) {
    const Dtype dtype = c_.bf16 ? Dtype::bf16 : Dtype::f32;
    const int64_t B = e.inputs[0].shape[0];
    const auto cut = [](const Tensor& t, int64_t length) { return t.rank() > 0 && t.size(0) == length; };
    std::vector<Tensor> inputs;
    int64_t most = 0;
    for (const Input& in : e.inputs) {
      inputs.push_back(tiled(in.fill, c_.room + "/" + in.edge, in.shape, in.wide ? wide(dtype) : dtype));
      most = std::max(most, in.shape.numel());
    }
    std::vector<Tensor> seeds;  // of the timed outputs, as a whole
    const auto part = [&](int64_t begin, int64_t end) {
      Tape tape;
      std::vector<Var> leaves;
      for (size_t i = 0; i < inputs.size(); ++i)
        leaves.push_back(tape.leaf("in" + std::to_string(i), cut(inputs[i], B) ? inputs[i].rows(begin, end) : inputs[i]));
      const std::vector<Var> all = e.build(leaves, {});
      Run r{.outputs = {}, .gradients = std::vector<Tensor>(inputs.size())};
      std::vector<Var> roots;
      std::vector<Tensor> ds;
      for (size_t o = 0; o < e.timed_outputs.size(); ++o) {
        const Var& y = all[size_t(e.timed_outputs[o])];
        r.outputs.push_back(y.value);
        most = std::max(most, y.value.numel());
        if (o == seeds.size())  // the first time
          seeds.push_back(y.tracked() ? tiled(whole_numbers(1, 3), "cotangent", y.shape(), y.value.dtype()) : Tensor{});
        if (!y.tracked()) continue;
        roots.push_back(y);
        ds.push_back(cut(y.value, end - begin) ? seeds[o].rows(begin, end) : seeds[o]);
      }
      if (roots.empty()) return r;
      auto found = backward(roots, ds);
      for (size_t i = 0; i < inputs.size(); ++i)
        if (auto it = found.find("in" + std::to_string(i)); it != found.end()) r.gradients[i] = it->second;
      return r;
    };
    const auto tensors = [](const Run& r) {
      std::vector<Tensor> all = r.outputs;
      for (const Tensor& d : r.gradients)
        if (d) all.push_back(d);
      return all;
    };
    device_.poison(true);
    struct Unpoison {
      Device& device;
      ~Unpoison() { device.poison(false); }
    } const unpoison{device_};

    const std::vector<Tensor> whole = tensors(part(0, B));
    std::vector<std::vector<double>> sums(whole.size());
    double differ = 0, off = 0;
    for (const auto& [begin, end] : {std::pair{int64_t(0), B / 2}, {B / 2, B}}) {
      const std::vector<Tensor> half = tensors(part(begin, end));
      for (size_t i = 0; i < whole.size(); ++i) {
        if (cut(whole[i], B)) {
          differ += bytes_that_differ(whole[i].rows(begin, end), half[i]);
          continue;
        }
        std::vector<double> x = to_doubles(half[i]);
        for (size_t k = 0; k < sums[i].size(); ++k) x[k] += sums[i][k];
        sums[i] = std::move(x);
      }
    }
    for (size_t i = 0; i < whole.size(); ++i)
      if (!sums[i].empty()) {
        const double error = relative_error(sums[i], to_doubles(whole[i]));
        off = std::isnan(error) ? error : std::max(off, error);
      }
    add("huge", e, "bytes that differ", differ, 0);
    add("huge", e, "sums of the halves", off, c_.bf16 ? c_.bf16->forward : c_.f32.backward);
    add("huge", e, "2^31 less the elements of the largest tensor", double((int64_t(1) << 31) - most), -1);
  }

  double bit_differences(const Run& a, const Run& b) const {
    double n = 0;
    for (size_t i = 0; i < a.outputs.size(); ++i) n += !same_bits(a.outputs[i], b.outputs[i]);
    for (size_t i = 0; i < a.gradients.size(); ++i) n += !same_bits(a.gradients[i], b.gradients[i]);
    return n;
  }

  void poison_law(const Example& e) {
    for (Dtype dtype : dtypes()) {
      const std::vector<Tensor> inputs = draw(c_, e, device_, dtype), before = draw(c_, e, device_, dtype);
      const Run plain = run(e.build, inputs, {});
      device_.poison(true);
      Run poisoned;
      try {
        poisoned = run(e.build, inputs, {});
      } catch (...) {
        device_.poison(false);
        throw;
      }
      device_.poison(false);
      add("poison", e, std::string(name(dtype)) + ": tensors that changed", bit_differences(plain, poisoned), 0);
      double changed = 0;
      for (size_t i = 0; i < inputs.size(); ++i) changed += !same_bits(inputs[i], before[i]);
      add("poison", e, std::string(name(dtype)) + ": inputs written to", changed, 0);
    }
  }

  void repeat_law(const Example& e) {
    for (Dtype dtype : dtypes()) {
      const std::vector<Tensor> inputs = draw(c_, e, device_, dtype);
      const Run first = run(e.build, inputs, {});
      double differing = bit_differences(first, run(e.build, inputs, {}));
      const int threads = thread_count();
      for (int n : {1, 3}) {
        set_thread_count(n);
        differing += bit_differences(first, run(e.build, inputs, {}));
      }
      set_thread_count(threads);
      add("repeat", e, std::string(name(dtype)) + ": tensors that differ", differing, 0, 3);
    }
  }

  void linear_law(const Example& e) {
    const std::vector<Tensor> inputs = draw(c_, e, device_, Dtype::f64);
    const Run once = run(e.build, inputs, {}), twice = run(e.build, inputs, {}, {}, 2), none = run(e.build, inputs, {}, {}, 0);
    double differing = 0, nonzero = 0;
    for (size_t i = 0; i < inputs.size(); ++i) {
      if (!once.gradients[i]) continue;
      const auto g1 = to_doubles(once.gradients[i]), g2 = to_doubles(twice.gradients.at(i)), g0 = to_doubles(none.gradients.at(i));
      for (size_t k = 0; k < g1.size(); ++k) {
        differing += !(g2[k] == 2 * g1[k]);
        nonzero += !(g0[k] == 0);
      }
    }
    add("linear", e, "elements where backward(2d) is not 2 backward(d)", differing, 0);
    add("linear", e, "elements where backward(0) is not 0", nonzero, 0);
  }

  void alive_law() {
    std::set<std::string> edges;
    for (const Example& e : c_.examples)
      for (const Input& in : e.inputs) edges.insert(in.edge);
    for (const std::string& edge : edges) {
      const bool listed = c_.dead.contains(edge);
      add("alive", Example{}, edge + (listed ? " (listed as dead)" : ""), alive_.contains(edge) == listed, 0, 1,
          listed ? "listed as dead, yet it carries a gradient" : "no example gives it a nonzero gradient");
    }
  }

  // A piece of a [B,...,T,...] tensor: row b, times [begin,end).
  static Tensor piece(const Tensor& t, const Input& in, int64_t b, int64_t begin, int64_t end) {
    const Tensor row = t.rows(b, b + 1);
    if (in.time_axis < 0) return clone(row);
    return time_slice(row, in.time_axis, begin, end);
  }
  static Tensor time_slice(const Tensor& row, int axis, int64_t begin, int64_t end) {
    int64_t outer = 1, inner = 1;
    Shape shape;
    for (int i = 0; i < row.rank(); ++i) {
      if (i < axis) outer *= row.size(i);
      if (i > axis) inner *= row.size(i);
      shape.push_back(i == axis ? end - begin : row.size(i));
    }
    const std::vector<double> all = to_doubles(row);
    std::vector<double> part;
    const int64_t T = row.size(axis);
    for (int64_t o = 0; o < outer; ++o)
      part.insert(part.end(), all.begin() + (o * T + begin) * inner, all.begin() + (o * T + end) * inner);
    return from_doubles(row.device(), shape, row.dtype(), part);
  }

  void packing_law(const Example& e) {
    const int64_t B = batch_of(e), T = time_of(e);
    if (T < 2) return;
    const auto starts = document_starts(B, T);
    for (Dtype dtype : {Dtype::f64, Dtype::f32}) {
      const double forward = dtype == Dtype::f64 ? 1e-12 : c_.f32.forward, backward = dtype == Dtype::f64 ? 1e-11 : c_.f32.backward;
      const std::vector<Tensor> inputs = draw(c_, e, device_, dtype);
      // Only timed outputs are compared, so only they get a cotangent.
      std::vector<std::vector<double>> seeds;
      const Run shapes = run(e.build, inputs, make_packing(device_, B, T, starts));
      for (size_t i = 0; i < shapes.outputs.size(); ++i)
        seeds.push_back(std::ranges::count(e.timed_outputs, int(i)) ? cotangent(i, shapes.outputs[i].numel()) : std::vector<double>{});
      const Run packed = run(e.build, inputs, make_packing(device_, B, T, starts), seeds);

      std::vector<std::vector<double>> sums(inputs.size());  // gradients of inputs that all documents share
      for (size_t i = 0; i < inputs.size(); ++i)
        if (e.inputs[i].time_axis < 0 && !e.inputs[i].carried) sums[i].assign(size_t(inputs[i].numel()), 0.0);
      const auto timed = Input{.edge = "", .shape = {}, .time_axis = 1};
      double worst_forward = 0, worst_backward = 0;
      auto worse = [](double& worst, double error) { worst = std::isnan(error) ? error : std::max(worst, error); };
      for (int64_t b = 0; b < B; ++b) {
        std::vector<int64_t> bounds = {0};
        bounds.insert(bounds.end(), starts[size_t(b)].begin(), starts[size_t(b)].end());
        bounds.push_back(T);
        for (size_t k = 0; k + 1 < bounds.size(); ++k) {
          const int64_t begin = bounds[k], end = bounds[k + 1];
          std::vector<Tensor> own;
          for (size_t i = 0; i < inputs.size(); ++i) {
            const Input& in = e.inputs[i];
            if (in.carried) own.push_back(k == 0 ? clone(inputs[i].rows(b, b + 1)) : Tensor{});
            else own.push_back(in.time_axis < 0 ? inputs[i] : piece(inputs[i], in, b, begin, end));
          }
          std::vector<std::vector<double>> own_seeds(seeds.size());
          for (int o : e.timed_outputs)
            own_seeds[size_t(o)] = to_doubles(piece(
                from_doubles(device_, packed.outputs[size_t(o)].shape(), Dtype::f64, seeds[size_t(o)]), timed, b, begin, end));
          const Run alone = run(e.build, own, {}, own_seeds);
          for (int o : e.timed_outputs)
            worse(worst_forward, relative_error(piece(packed.outputs[size_t(o)], timed, b, begin, end), alone.outputs[size_t(o)]));
          for (size_t i = 0; i < inputs.size(); ++i) {
            if (!own[i] || !alone.gradients[i]) continue;
            const Input& in = e.inputs[i];
            if (in.time_axis >= 0 || in.carried) {
              // Against the whole row's gradient: a document of one token may have a tiny one of its own.
              const Tensor mine = in.carried ? clone(packed.gradients[i].rows(b, b + 1)) : piece(packed.gradients[i], in, b, begin, end);
              const auto x = to_doubles(mine), y = to_doubles(alone.gradients[i]);
              double d = 0, n = 0;
              for (size_t j = 0; j < x.size(); ++j) d += (x[j] - y[j]) * (x[j] - y[j]);
              for (double g : to_doubles(packed.gradients[i].rows(b, b + 1))) n += g * g;
              worse(worst_backward, n > 0 ? std::sqrt(d / n) : std::sqrt(d));
            } else {
              const auto y = to_doubles(alone.gradients[i]);
              for (size_t j = 0; j < y.size(); ++j) sums[i][j] += y[j];
            }
          }
        }
      }
      for (size_t i = 0; i < inputs.size(); ++i)
        if (!sums[i].empty() && packed.gradients[i]) worse(worst_backward, relative_error(to_doubles(packed.gradients[i]), sums[i]));
      add("packing", e, std::string(name(dtype)) + " outputs", worst_forward, forward);
      add("packing", e, std::string(name(dtype)) + " gradients", worst_backward, backward);
    }
  }

  const OpCase& c_;
  Device& device_;
  const HoldOptions options_;
  std::set<std::string> alive_;
  std::vector<LawRecord> records_;
};

}  // namespace

std::vector<Tensor> draw(const OpCase& c, const Example& e, Device& device, Dtype dtype) {
  std::vector<Tensor> inputs;
  for (const Input& in : e.inputs)
    inputs.push_back(from_doubles(device, in.shape, in.wide ? wide(dtype) : dtype,
                                  draws(in.fill, Random(3, c.room + "/" + e.name + "/" + in.edge), in.shape.numel())));
  return inputs;
}

std::vector<LawRecord> hold(const OpCase& c, Device& device, const HoldOptions& options) { return Holder(c, device, options).hold(); }

std::vector<std::string> laws_of(const OpCase& c, const Device& device) {
  if (c.ops.empty()) return {"check"};
  std::vector<std::string> laws = {"gradcheck", "definition", "poison", "repeat", "linear", "alive"};
  if (c.looks_back) laws.push_back("packing");
  if (c.bf16 && device.kind() == DeviceKind::cuda) laws.insert(laws.end(), {"bf16", "plain"});
  return laws;
}

}  // namespace taper::test
