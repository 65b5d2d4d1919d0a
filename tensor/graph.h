// Graph: work recorded once and done again by one launch, on the same memory and with the same sizes.
//
// Device::record runs `work` as it is, watching what it allocates, and then a second time to record it, doing nothing.
//
//   cuda   the queue of kernels, fills and copies becomes a CUDA graph: the host's part of the work is one call
//   plan   as cuda: counts the memory of the recording and runs no kernel
//   cpu    the calls are kept and made again; the tensors of the work, all of them, are kept with them. No gain: it is
//          there to be tested
//
// Memory: what the work allocates comes from one block that lives as long as the graph, each tensor at an address of its own
// for its time (place). So work must free all that it allocated, and nothing else: what outlives it is made before.
// What changes from launch to launch stands in tensors made before, and is written between launches; anything passed by value
// is repeated as it was. Uploads, downloads and waits inside the work are errors.
#pragma once
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "tensor/device.h"

namespace taper {

class Graph {
 public:
  explicit Graph(Device& device) : device(device) {}
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  Device& device;
  void* block = nullptr;  // for what the work allocates
  size_t bytes = 0;
  std::shared_ptr<void> captured;                // the device's own
  std::vector<std::function<void()>> calls;      // of a device that captures nothing
  std::vector<std::pair<void*, size_t>> freed;   // by the work, but the calls still write there
};

// Work done again and again. With graph: the first time it runs as it is, which opens what is opened on first use; the second
// time it is recorded; from then on it is launched. Under --profile and --sync-every-op it always runs as it is, so that
// kernels can be timed and faults be named.
class Repeated {
 public:
  Repeated(Device& device, std::function<void()> work, bool graph) : device_(device), work_(std::move(work)), wanted_(graph) {}
  void operator()();
  void forget() { graph_ = nullptr; }  // gives its memory back; it is recorded anew when it runs again

 private:
  Device& device_;
  std::function<void()> work_;
  bool wanted_, opened_ = false;
  std::shared_ptr<Graph> graph_;
};

// The time in which a tensor of the work lives: from the begin-th event (an allocation or a release) to the end-th.
struct Lifetime {
  size_t bytes = 0, begin = 0, end = 0;
};
struct Places {
  std::vector<size_t> offsets;  // of each lifetime: two that overlap in time do not overlap in memory
  size_t bytes = 0;             // of the block
};
// The largest first, each into the smallest gap among those it meets. Offsets are multiples of 256.
Places place(const std::vector<Lifetime>& lifetimes);

}  // namespace taper
