// Hopper's products of a warpgroup: they may read shared memory until they are waited for, and their sums are NaN till then.
#include <algorithm>
#include <memory>
#include <vector>

#include "tests/emulator/fibers.h"
#include "tests/emulator/hopper.cuh"

namespace emulator {
namespace {

constexpr unsigned lanes = 128;
constexpr int m = 64, k = 16;

struct Sums {  // the same registers of all lanes, while products on them are under way
  int n;       // of a lane
  float* d[lanes] = {};
  std::vector<float> value;  // [m, 2 n]
  int under_way = 0;
  size_t last_group = 0;  // with a product of theirs
  Place place;            // of that one

  float& at(unsigned lane, int i) {
    const int row = int(lane / 32 * 16 + lane % 32 / 4) + i / 2 % 2 * 8, column = i / 4 * 8 + int(lane % 4) * 2 + i % 2;
    return value[size_t(row * 2 * n + column)];
  }
  void take(unsigned lane, float* from) {
    d[lane] = from;
    for (int i = 0; i < n; ++i) at(lane, i) = from[i];
    std::memset(from, 0xff, size_t(n) * sizeof(float));
  }
  void give(unsigned lane) {
    const auto* bytes = reinterpret_cast<const unsigned char*>(d[lane]);
    if (std::any_of(bytes, bytes + size_t(n) * sizeof(float), [](unsigned char c) { return c != 0xff; }))
      fault("sums were written while their product was under way: wgmma_wait comes first", place);
    for (int i = 0; i < n; ++i) d[lane][i] = at(lane, i);
    d[lane] = nullptr;
  }
};

struct Running {
  WarpgroupProduct product;
  Place at;
  std::shared_ptr<Sums> sums;
  uint32_t fragment[lanes][4];
  std::vector<float> left, right;  // [m, k], [k, 2 n]; empty: not read yet
};

struct Warpgroup {
  std::vector<Running> running;    // oldest first
  size_t before = 0;               // products that are done
  std::vector<size_t> groups;      // where each ends, counted from the block's begin
  size_t groups_done = 0, awaited = 0;
  bool late = false;  // what is awaited is not done before nobody else can run
  std::vector<std::shared_ptr<Sums>> made;  // that some lanes have not waited for
  struct Lane {
    size_t products = 0, groups = 0, wanted = 0;
    bool fenced = false;
  } lane[lanes];
};
Warpgroup warpgroups[most_threads / lanes];
Warpgroup& mine() { return warpgroups[running() / lanes]; }
Warpgroup::Lane& my_lane() { return mine().lane[running() % lanes]; }

// An operand's element [row][of k], row being of M or N: the word is decoded as the hardware does.
class Operand {
 public:
  Operand(uint64_t word, bool across, Place at)
      : start_((word & 0x3fff) << 4), next_((word >> 16 & 0x3fff) << 4), across_(across), at_(at) {
    if (word >> 62 != 1 || (word >> 32 & 0x3fff) << 4 != 1024 || (word >> 46 & 0xffff) != 0)
      fault("wgmma: an operand's word is none that operand() made", at);
    if (across ? start_ % 1024 != 0 : start_ % 1024 >= 128 || start_ % 32 != 0)
      fault("wgmma: an operand must begin with an atom of 1024 bytes" +
                std::string(across ? "" : ", or a step of 32 bytes within its rows") + "; it begins at byte " +
                std::to_string(start_),
            at);
  }
  float operator()(size_t row, size_t k) const {
    size_t at = across_ ? row / 64 * next_ + k / 8 * 1024 + k % 8 * 128 + row % 64 * 2 : row / 8 * 1024 + row % 8 * 128 + k * 2;
    at += start_;
    at ^= (at >> 7 & 7) << 4;
    if (at + 2 > dynamic_shared_bytes()) fault("wgmma: an operand reaches beyond the shared memory", at_);
    uint16_t bits;
    std::memcpy(&bits, static_cast<const char*>(dynamic_shared()) + at, 2);
    return low_bf16(bits);
  }

 private:
  size_t start_, next_;
  bool across_;
  Place at_;
};

void read(Running& r) {
  if (!r.right.empty()) return;
  const WarpgroupProduct& p = r.product;
  r.left.resize(m * k);
  if (!p.registers) {
    const Operand a(p.a, p.a_across, r.at);
    for (size_t i = 0; i < m * k; ++i) r.left[i] = a(i / k, i % k);
  }
  const size_t columns = size_t(2 * p.n);
  const Operand b(p.b, p.b_across, r.at);
  r.right.resize(k * columns);
  for (size_t i = 0; i < k * columns; ++i) r.right[i] = b(i % columns, i / columns);
}

template <int columns>
void multiply(float* d, const float* a, const float* b) {
  for (int i = 0; i < m; ++i)
    for (int j = 0; j < k; ++j)
      for (int c = 0; c < columns; ++c) d[i * columns + c] += a[i * k + j] * b[j * columns + c];
}

void carry_out(Running& r) {
  read(r);
  const WarpgroupProduct& p = r.product;
  if (p.registers)
    for (unsigned lane = 0; lane < lanes; ++lane)
      for (int i = 0; i < 4; ++i) {
        const int row = int(lane / 32 * 16 + lane % 32 / 4) + i % 2 * 8, column = int(lane % 4) * 2 + i / 2 * 8;
        r.left[size_t(row * k + column)] = low_bf16(r.fragment[lane][i]);
        r.left[size_t(row * k + column + 1)] = high_bf16(r.fragment[lane][i]);
      }
  float* d = r.sums->value.data();
  if (!p.add) std::fill_n(d, m * 2 * p.n, 0.0f);
  if (p.n == 32) multiply<64>(d, r.left.data(), r.right.data());
  if (p.n == 64) multiply<128>(d, r.left.data(), r.right.data());
  if (p.n == 128) multiply<256>(d, r.left.data(), r.right.data());
  --r.sums->under_way;
}

// Carries out the groups that some lane waits for, as far as all lanes have closed them; false: none.
bool finish(Warpgroup& w) {
  size_t closed = w.groups.size(), wanted = 0;
  for (const auto& lane : w.lane) closed = std::min(closed, lane.groups), wanted = std::max(wanted, lane.wanted);
  const size_t until = std::min(closed, wanted);
  if (w.groups_done >= until) return false;
  w.groups_done = until;
  const size_t count = w.groups[until - 1] - w.before;
  for (size_t i = 0; i < count; ++i) {
    carry_out(w.running[i]);
    if (w.running[i].sums->under_way == 0) w.made.push_back(w.running[i].sums);
  }
  w.running.erase(w.running.begin(), w.running.begin() + long(count));
  w.before += count;
  release(&w);
  return true;
}

}  // namespace

uint64_t operand(const void* shared, int next, Place at) {
  const auto begin = static_cast<const char*>(shared) - static_cast<const char*>(dynamic_shared());
  if (begin < 0 || begin >= int64_t(dynamic_shared_bytes())) fault("operand: not in dynamic shared memory", at);
  if (begin % 16 != 0 || next % 16 != 0) fault("operand: its address or `next` is no multiple of 16 bytes", at);
  return uint64_t(begin & 0x3ffff) >> 4 | uint64_t(next >> 4) << 16 | uint64_t(1024 >> 4) << 32 | uint64_t(1) << 62;
}

void wgmma(const WarpgroupProduct& product, float* d, const uint32_t* a, Place at) {
  want_hopper("wgmma", at);
  Warpgroup& w = mine();
  Warpgroup::Lane& my = my_lane();
  const unsigned lane = running() % lanes;
  if (running() - lane + lanes > threads_of_block()) fault("wgmma: the block's last warpgroup is not whole", at);
  const size_t i = my.products++ - w.before;
  const bool first = i == w.running.size();
  if (first) {
    std::shared_ptr<Sums> sums;
    for (const Running& r : w.running)
      if (r.sums->d[lane] == d && r.sums->n == product.n) sums = r.sums;
    if (!sums) {
      sums = std::make_shared<Sums>(product.n);
      sums->value.resize(size_t(m * 2 * product.n));
    }
    ++sums->under_way;
    sums->last_group = my.groups + 1, sums->place = at;
    w.running.push_back({product, at, sums, {}, {}, {}});
  }
  Running& r = w.running[i];
  if (r.product != product)
    fault("wgmma: the threads of a warpgroup ask for different products, one at line " + std::to_string(r.at.line()), at);
  if (r.sums->d[lane] && r.sums->d[lane] != d) fault("wgmma: the threads of a warpgroup name different sums", at);
  if (!my.fenced && (product.registers || !r.sums->d[lane]))
    fault("wgmma: registers may have been used otherwise since the group before: wgmma_fence comes first", at);
  if (!r.sums->d[lane]) r.sums->take(lane, d);
  if (a) std::copy_n(a, 4, r.fragment[lane]);
  if (first && at_once()) read(r);
}

void wgmma_fence() { my_lane().fenced = true; }

void wgmma_commit(Place at) {
  Warpgroup& w = mine();
  Warpgroup::Lane& my = my_lane();
  my.fenced = false;
  if (my.groups++ == w.groups.size()) w.groups.push_back(my.products);
  else if (w.groups[my.groups - 1] != my.products)
    fault("wgmma_commit: the threads of a warpgroup close different groups", at);
}

void wgmma_wait(size_t pending, Place at) {
  Warpgroup& w = mine();
  Warpgroup::Lane& my = my_lane();
  my.fenced = false;
  my.wanted = my.groups > pending ? my.groups - pending : 0;
  if (my.wanted > w.awaited) w.awaited = my.wanted, w.late = !at_once();
  while (w.groups_done < my.wanted)
    if (w.late || !finish(w)) wait_on(&w, "wgmma_wait", [](const void*) { return std::string(); }, at);
  for (const auto& sums : w.made)
    if (sums->d[running() % lanes] && sums->last_group <= my.wanted) sums->give(running() % lanes);
  std::erase_if(w.made, [](const auto& sums) { return std::count(sums->d, sums->d + lanes, nullptr) == lanes; });
}

namespace products {

void begin_block() {
  for (Warpgroup& w : warpgroups) w = Warpgroup{};
}
bool go_on() {
  const unsigned count = threads_of_block() / lanes, first = below(count);
  for (unsigned i = 0; i < count; ++i)
    if (finish(warpgroups[(first + i) % count])) return true;
  return false;
}
void end_thread() {
  const Warpgroup& w = mine();
  const auto check = [](const Sums& sums) {
    if (sums.d[running() % lanes])
      fault("a thread ends while its products are under way: wgmma_wait<0>() comes first", sums.place);
  };
  for (const Running& r : w.running) check(*r.sums);
  for (const auto& sums : w.made) check(*sums);
}

}  // namespace products
}  // namespace emulator
