// Graph: rehearsal, placement and recording, and what work may not do meanwhile.
#include "tensor/graph.h"

#include <algorithm>
#include <numeric>
#include <unordered_map>

#include "tensor/error.h"
#include "tensor/profile.h"

namespace taper {

constexpr size_t alive = SIZE_MAX;

struct Device::Recording {
  std::vector<Lifetime> lifetimes;
  std::unordered_map<void*, size_t> index;  // of what is alive
  size_t events = 0, strangers = 0;         // strangers: freed, but not allocated by the work
  // Of the second run:
  Graph* graph = nullptr;
  Places places;
  size_t next = 0;
};

Graph::~Graph() {
  captured = nullptr;  // before the memory that it works on
  calls.clear();
  for (const auto& [p, size] : freed) device.free(p, size);
  if (block) device.free(block, bytes);
}

void Repeated::operator()() {
  if (!wanted_ || !opened_ || profiling || sync_every_op) {
    work_();
    opened_ = true;
  } else if (!graph_) {
    graph_ = device_.record(work_);
  } else {
    device_.launch(*graph_);
  }
}

Places place(const std::vector<Lifetime>& lifetimes) {
  const auto rounded = [](size_t bytes) { return (bytes + 255) / 256 * 256; };
  std::vector<size_t> order(lifetimes.size());
  std::iota(order.begin(), order.end(), size_t(0));
  std::ranges::stable_sort(order, std::greater{}, [&](size_t i) { return lifetimes[i].bytes; });
  Places places{.offsets = std::vector<size_t>(lifetimes.size(), 0), .bytes = 0};
  struct Range {
    size_t begin, end;
  };
  std::vector<Range> times, addresses, met;  // of those placed; the addresses of those that live when this one does
  for (const size_t i : order) {
    const Lifetime& mine = lifetimes[i];
    const size_t bytes = rounded(mine.bytes);
    met.clear();
    for (size_t k = 0; k < times.size(); ++k)
      if (times[k].begin < mine.end && mine.begin < times[k].end) met.push_back(addresses[k]);
    std::ranges::sort(met, {}, &Range::begin);
    size_t best = SIZE_MAX, best_gap = SIZE_MAX, end = 0;  // end: of those passed
    for (const Range& r : met) {
      if (r.begin > end && r.begin - end >= bytes && r.begin - end < best_gap) best = end, best_gap = r.begin - end;
      end = std::max(end, r.end);
    }
    const size_t at = best == SIZE_MAX ? end : best;
    places.offsets[i] = at;
    places.bytes = std::max(places.bytes, at + bytes);
    times.push_back({mine.begin, mine.end});
    addresses.push_back({at, at + bytes});
  }
  return places;
}

void* Device::allocate(size_t bytes) {
  const size_t rounded = std::max<size_t>(64, (bytes + 63) / 64 * 64);
  void* p = nullptr;
  if (mode_ == Mode::recording && captures()) {
    const size_t i = at_->next++;
    check(i < at_->lifetimes.size() && at_->lifetimes[i].bytes == rounded,
          "graph: recorded work must allocate what it allocated before; its allocation {} is now of {} bytes", i + 1, rounded);
    p = static_cast<char*>(at_->graph->block) + at_->places.offsets[i];
  } else {
    p = take(rounded);
    live_ += rounded;
    peak_ = std::max(peak_, live_);
  }
  if (mode_ == Mode::rehearsing) {
    at_->index[p] = at_->lifetimes.size();
    at_->lifetimes.push_back({.bytes = rounded, .begin = at_->events++, .end = alive});
  }
  if (poison_) fill(p, 0xff, rounded);
  return p;
}

void Device::free(void* p, size_t bytes) {
  const size_t rounded = std::max<size_t>(64, (bytes + 63) / 64 * 64);
  if (mode_ == Mode::rehearsing) {
    if (const auto found = at_->index.find(p); found != at_->index.end()) {
      at_->lifetimes[found->second].end = at_->events++;
      at_->index.erase(found);
    } else {
      ++at_->strangers;
    }
  } else if (mode_ == Mode::recording) {
    const Graph& g = *at_->graph;
    if (captures() && g.block <= p && p < static_cast<char*>(g.block) + g.bytes) return;
    at_->graph->freed.push_back({p, bytes});
    return;
  }
  live_ -= rounded;
  give(p, rounded);
}

void Device::refuse_while_recording(const char* what, size_t bytes) const {
  check(mode_ == Mode::plain,
        "graph: recorded work must not {} ({} bytes): a launch does only what the device does by itself; do it before or after, "
        "with tensors made before", what, bytes);
}

void Device::fill(void* p, int byte, size_t bytes) {
  if (bytes == 0) return;
  if (defers()) return defer([=, this] { set(p, byte, bytes); });
  set(p, byte, bytes);
}
void Device::copy(void* to, const void* from, size_t bytes) {
  if (bytes == 0 || to == from) return;
  if (defers()) return defer([=, this] { move(to, from, bytes); });
  move(to, from, bytes);
}
void Device::upload(void* to, const void* from_host, size_t bytes) {
  refuse_while_recording("upload", bytes);
  send(to, from_host, bytes);
}
void Device::download(void* to_host, const void* from, size_t bytes) {
  refuse_while_recording("download", bytes);
  receive(to_host, from, bytes);
}
void Device::synchronize() {
  refuse_while_recording("wait", 0);
  wait();
}

void Device::defer(std::function<void()> call) { at_->graph->calls.push_back(std::move(call)); }

std::shared_ptr<Graph> Device::record(const std::function<void()>& work) {
  check(mode_ == Mode::plain, "graph: recorded work must not record");
  Recording recording;
  const auto run = [&](Mode mode) {
    at_ = &recording;
    mode_ = mode;
    std::exception_ptr failed;
    if (mode == Mode::recording) begin_capture();
    try {
      work();
    } catch (...) {
      failed = std::current_exception();
    }
    mode_ = Mode::plain;
    at_ = nullptr;
    std::shared_ptr<void> captured;
    if (mode == Mode::recording) try {
        captured = end_capture();
      } catch (...) {
        if (!failed) throw;
      }
    if (failed) std::rethrow_exception(failed);
    return captured;
  };
  run(Mode::rehearsing);
  check(recording.index.empty(), "graph: recorded work must free all that it allocates; {} tensors remain; make them before",
        recording.index.size());
  check(recording.strangers == 0, "graph: recorded work must free only what it allocates; it freed {} tensors made before; keep them, and copy into them",
        recording.strangers);
  auto graph = std::make_shared<Graph>(*this);
  recording.graph = graph.get();
  if (captures()) {
    recording.places = place(recording.lifetimes);
    graph->bytes = recording.places.bytes;
    prepare_block();
    graph->block = allocate(graph->bytes);
  }
  graph->captured = run(Mode::recording);
  check(!captures() || recording.next == recording.lifetimes.size(),
        "graph: recorded work must allocate what it allocated before; it made {} allocations, then {}", recording.lifetimes.size(), recording.next);
  return graph;
}

void Device::launch(const Graph& graph) {
  check(mode_ == Mode::plain, "graph: recorded work must not launch");
  if (captures()) return launch_capture(graph.captured.get());
  for (const auto& call : graph.calls) call();
}

}  // namespace taper
