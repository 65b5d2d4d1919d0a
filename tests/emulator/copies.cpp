// Hopper's barriers that count bytes, and its copy engine: boxes of tensors, to and from shared memory.
#include <bit>
#include <utility>
#include <vector>

#include "tests/emulator/fibers.h"
#include "tests/emulator/hopper.cuh"

namespace emulator {
namespace {

struct Phase {  // the 64 bits of a barrier
  uint64_t parity : 1, count : 20, pending : 20;
  int64_t bytes : 21;  // announced and not there
  uint64_t mark : 2;   // 1: a barrier. 3 is memory that nobody wrote
};
constexpr int most_bytes = (1 << 20) - 1;

Phase phase_of(const uint64_t* b, Place at) {
  const Phase p = std::bit_cast<Phase>(*b);
  if (p.mark != 1 || p.count == 0) fault("not a barrier: barrier_init comes first", at);
  return p;
}
// Puts the phase back; ends it where all has come.
void settle(uint64_t* b, Phase p, Place at) {
  if (p.pending == 0 && p.bytes < 0) fault("more bytes came than the barrier was told of", at);
  const bool ends = p.pending == 0 && p.bytes == 0;
  if (ends) p.parity ^= 1, p.pending = p.count;
  *b = std::bit_cast<uint64_t>(p);
  if (ends) release(b);
}
void add_bytes(Phase& p, int64_t bytes, Place at) {
  const int64_t sum = p.bytes + bytes;
  if (sum > most_bytes || sum < -most_bytes) fault("a barrier counts at most 1048575 bytes", at);
  p.bytes = sum;
}

std::string missing(const void* barrier) {
  const Phase p = std::bit_cast<Phase>(*static_cast<const uint64_t*>(barrier));
  return " (" + std::to_string(uint64_t(p.pending)) + " of " + std::to_string(uint64_t(p.count)) + " arrivals and " +
         std::to_string(int64_t(p.bytes)) + " bytes are missing)";
}

struct Box {
  CUtensorMap map;
  int from[4];
  char* shared;
  uint64_t* barrier;
  Place at;
  int64_t rows() const { return int64_t(map.box[1]) * map.box[2] * map.box[3]; }
};
constexpr int row_bytes = 128;

// f(shared, global, bytes) for the elements and pieces of a box; global is nullptr outside of the tensor.
template <class F>
void for_pieces(const Box& b, F&& f) {
  const auto* base = static_cast<const char*>(dynamic_shared());
  const CUtensorMap& m = b.map;
  for (int64_t row = 0; row < b.rows(); ++row) {
    const int64_t at[4] = {b.from[0], b.from[1] + row % m.box[1], b.from[2] + row / m.box[1] % m.box[2],
                           b.from[3] + row / m.box[1] / m.box[2]};
    char* g_row = m.base;
    bool inside = true;
    for (int i = 1; i < 4; ++i) {
      inside = inside && at[i] >= 0 && at[i] < int64_t(m.size[i]);
      g_row += at[i] * int64_t(m.stride[i]);
    }
    char* s_row = b.shared + row * row_bytes;
    const int64_t swizzle = (s_row - base) / row_bytes % 8;
    for (int64_t piece = 0; piece < 8; ++piece) {
      char* s = s_row + (piece ^ swizzle) * 16;
      const int64_t x = at[0] + piece * 8, end = int64_t(m.size[0]);
      if (inside && x >= 0 && x + 8 <= end) {
        f(s, g_row + 2 * x, 16);
        continue;
      }
      for (int64_t i = 0; i < 8; ++i)
        f(s + 2 * i, inside && x + i >= 0 && x + i < end ? g_row + 2 * (x + i) : nullptr, 2);
    }
  }
}

void fetch(const Box& b) {
  for_pieces(b, [](char* s, const char* g, size_t bytes) { g ? std::memcpy(s, g, bytes) : std::memset(s, 0, bytes); });
  Phase p = phase_of(b.barrier, b.at);
  add_bytes(p, -b.rows() * row_bytes, b.at);
  settle(b.barrier, p, b.at);
}
void bring_out(const Box& b) {
  for_pieces(b, [](const char* s, char* g, size_t bytes) {
    if (g) std::memcpy(g, s, bytes);
  });
}

Box checked(const char* call, const CUtensorMap& map, unsigned dimensions, const int (&from)[4], const void* shared, Place at) {
  want_hopper(call, at);
  const std::string who = std::string(call) + ": ";
  if (map.mark != CUtensorMap::made) fault(who + "not a tensor map", at);
  if (map.dimensions != dimensions)
    fault(who + std::to_string(dimensions) + " coordinates for a tensor map of " + std::to_string(map.dimensions), at);
  Box b{map, {from[0], from[1], from[2], from[3]}, static_cast<char*>(const_cast<void*>(shared)), nullptr, at};
  const int64_t begin = b.shared - static_cast<char*>(dynamic_shared()), end = begin + b.rows() * row_bytes;
  if (begin < 0 || end > int64_t(dynamic_shared_bytes()))
    fault(who + "bytes " + std::to_string(begin) + " to " + std::to_string(end) + " of " +
              std::to_string(dynamic_shared_bytes()) + " of dynamic shared memory",
          at);
  if (begin % 128 != 0) fault(who + "the shared address is not 128-byte aligned", at);
  return b;
}

std::vector<Box> coming;
struct Stores {  // of a thread
  std::vector<Box> boxes;
  std::vector<size_t> groups;  // boxes of each, oldest first
  size_t open = 0;
  bool unread = false;  // also what was done at once
  Place at;
  void end_group() {
    for (size_t i = 0; i < groups.front(); ++i) bring_out(boxes[i]);
    boxes.erase(boxes.begin(), boxes.begin() + long(groups.front()));
    groups.erase(groups.begin());
  }
} stores[most_threads];

}  // namespace

void barrier_init(uint64_t* b, int count, Place at) {
  if (count < 1 || count > most_bytes) fault("a barrier of " + std::to_string(count) + " arrivals", at);
  *b = std::bit_cast<uint64_t>(Phase{0, uint64_t(count), uint64_t(count), 0, 1});
}

void barrier_arrive(uint64_t* b, int bytes, Place at) {
  Phase p = phase_of(b, at);
  if (p.pending == 0) fault("more arrivals than the barrier counts", at);
  add_bytes(p, bytes, at);
  --p.pending;
  settle(b, p, at);
}

void barrier_wait(uint64_t* b, int parity, Place at) {
  if (parity != 0 && parity != 1) fault("barrier_wait: parity " + std::to_string(parity), at);
  while (int(phase_of(b, at).parity) == parity) 
    wait_on(b, parity ? "barrier_wait for parity 1" : "barrier_wait for parity 0", missing, at);
}

void copy_box(void* shared, const CUtensorMap& map, unsigned dimensions, const int (&from)[4], uint64_t* b, Place at) {
  Box box = checked("copy_box", map, dimensions, from, shared, at);
  box.barrier = b;
  phase_of(b, at);
  if (at_once()) return fetch(box);
  std::memset(box.shared, 0xff, size_t(box.rows() * row_bytes));  // what was there is lost from now on
  coming.push_back(box);
}

void store_box(const CUtensorMap& map, unsigned dimensions, const int (&to)[4], const void* shared, Place at) {
  const Box box = checked("store_box", map, dimensions, to, shared, at);
  Stores& mine = stores[running()];
  mine.unread = true, mine.at = at;
  if (at_once()) return bring_out(box);
  mine.boxes.push_back(box);
  ++mine.open;
}
void store_commit() {
  Stores& mine = stores[running()];
  mine.groups.push_back(std::exchange(mine.open, 0));
}
void store_wait_read(size_t pending) {
  Stores& mine = stores[running()];
  while (mine.groups.size() > pending) mine.end_group();
  if (pending == 0 && mine.open == 0) mine.unread = false;
}

namespace copies {

void begin_block() {
  coming.clear();
  for (unsigned t = 0; t < threads_of_block(); ++t) stores[t] = Stores{};
}
bool go_on() {
  if (coming.empty()) return false;
  const auto which = coming.begin() + below(uint32_t(coming.size()));
  const Box box = *which;
  coming.erase(which);
  fetch(box);
  return true;
}
void end_thread() {
  if (const Stores& mine = stores[running()]; mine.unread)
    fault("a thread ends before the copy engine has read what it stores: store_wait_read<0>() comes first", mine.at);
}
void end_block() {
  if (!coming.empty()) fault("the block ends while a box comes to its shared memory: nobody waits for it", coming[0].at);
}

}  // namespace copies
}  // namespace emulator
