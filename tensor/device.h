// Device: memory and one stream of work. cuda/ implements it too; nobody else sees a CUDA header.
//
//   cpu    host memory, kernels run on the thread pool (parallel.h)
//   cuda   a GPU; registered by cuda/device.cu where the build has it
//   plan   counts allocations and runs no kernel: what a run would need, without doing it
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace taper {

enum class DeviceKind : uint8_t { cpu, cuda, plan };
constexpr int device_kinds_with_kernels = 2;  // cpu and cuda: a plan runs none
constexpr const char* name(DeviceKind k) {
  constexpr const char* names[] = {"cpu", "cuda", "plan"};
  return names[size_t(k)];
}

class Graph;

class Device {
 public:
  virtual ~Device() = default;
  virtual DeviceKind kind() const = 0;
  virtual std::string name() const = 0;  // "cpu", "cuda:0", "plan"
  virtual std::string product() const { return name(); }  // "NVIDIA H100 80GB HBM3": what records are kept under

  // Memory, 64-byte aligned. With poison on, new memory holds NaN (all bits set), so that an
  // element nobody wrote shows itself.
  void* allocate(size_t bytes);
  void free(void* p, size_t bytes);
  void poison(bool on) { poison_ = on; }
  size_t bytes_live() const { return live_; }
  size_t bytes_peak() const { return peak_; }
  void reset_peak() { peak_ = live_; }

  virtual size_t bytes_reserved() const { return live_; }  // taken from the system, what is kept for later included

  void fill(void* p, int byte, size_t bytes);
  void upload(void* to, const void* from_host, size_t bytes);    // from_host is free again on return
  void download(void* to_host, const void* from, size_t bytes);  // waits
  void copy(void* to, const void* from, size_t bytes);           // within the device
  void synchronize();
  virtual void* stream() const { return nullptr; }

  // Graphs: see graph.h, whose Repeated is how they are used.
  std::shared_ptr<Graph> record(const std::function<void()>& work);
  void launch(const Graph& graph);
  // While work is recorded on a device whose kernels run when they are called: a kernel's call is kept for the launches.
  bool defers() const { return mode_ == Mode::recording && !captures(); }
  void defer(std::function<void()> call);

  // Points in the device's work, and the seconds between two of them; seconds_between waits for the later one.
  using Mark = std::shared_ptr<void>;
  virtual Mark mark() = 0;
  virtual double seconds_between(const Mark& begin, const Mark& end) = 0;

 protected:  // how a device does each of the above
  virtual void* take(size_t bytes) = 0;
  virtual void give(void* p, size_t bytes) = 0;
  virtual void set(void* p, int byte, size_t bytes) = 0;
  virtual void send(void* to, const void* from_host, size_t bytes) = 0;
  virtual void receive(void* to_host, const void* from, size_t bytes) = 0;
  virtual void move(void* to, const void* from, size_t bytes) = 0;
  virtual void wait() {}
  // Of a device that records its queue by itself: from begin_capture to end_capture nothing runs. Work that fails in
  // between is ended too; what end_capture returns is then dropped.
  virtual bool captures() const { return false; }
  virtual void prepare_block() {}  // before the block of a recording is allocated
  virtual void begin_capture() {}
  virtual std::shared_ptr<void> end_capture() { return nullptr; }
  virtual void launch_capture(void*) {}

 private:
  friend class Graph;
  enum class Mode : uint8_t { plain, rehearsing, recording };
  struct Recording;
  void refuse_while_recording(const char* what, size_t bytes) const;

  bool poison_ = false;
  size_t live_ = 0, peak_ = 0;
  Mode mode_ = Mode::plain;
  Recording* at_ = nullptr;  // what is being recorded
};

// "cpu", "cuda:0", "plan", or "auto": a GPU when one answers and the build has every kernel for it, else
// the CPU. The same name gives the same device for the life of the process. Errors: an unknown name (78),
// no such GPU (69).
Device& open_device(std::string_view name);

// What is known of a backend's devices without opening one; no driver, no device and no library are answers too.
struct DeviceFacts {
  std::string name, product;   // "cuda:0", "NVIDIA H100 80GB HBM3"
  std::string capability;      // "9.0"
  size_t memory = 0;           // bytes
  std::string kernels;         // the capability for which those that run there were compiled: "9.0"
  std::string fault;           // why this build's kernels do not run there; empty: they do
};
struct BackendFacts {
  std::string driver;    // in words
  std::string cublaslt;  // "cuBLASLt 13.0.2"; "": not installed
  std::vector<DeviceFacts> devices;
};
std::vector<BackendFacts> backends();  // of this build, beside the CPU

// Registers how a kind of device is opened: static const DeviceOpener _{"cuda", open, available, facts};
struct DeviceOpener {
  DeviceOpener(std::string_view prefix, Device& (*open)(int index), bool (*available)(), BackendFacts (*facts)());
};

}  // namespace taper
