// Fibers, their order, barriers, the meetings of lanes.
//
// TAPER_EMULATOR_ORDER says who runs first, at the start and after each barrier:
//   0        threads and blocks in their order
//   1        backwards
//   2, 3...  shuffled, by this seed; in some blocks a warp or a warpgroup runs only where no other can, or a warp before all
//   unset    the three in turn, launch by launch: repeating a launch repeats it in another order
// TAPER_EMULATOR_CAPABILITY: 90, a Hopper's kernels run; 80: those for cards before it. Unset: 90.
// TAPER_EMULATOR_SHARED: bytes of shared memory a block may have; unset: 232448, an H100's. 101376 is an RTX 4090's.
// Copies of cp.async are done when begun in order 1, else as late as the waits allow.
#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <map>
#include <memory>
#include <new>
#include <numeric>
#include <vector>

#include "tensor/raise.h"
#include "tests/emulator/api.h"
#include "tests/emulator/fibers.h"
#include "tests/emulator/memory.h"
#include "tests/emulator/mma.cuh"

// Saves the registers that a call preserves on the stack and the stack in *save; goes on where `load` was saved.
asm(R"(
.text
.globl emulator_switch
.type emulator_switch, @function
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulator_switch, .-emulator_switch
)");
extern "C" {
void emulator_switch(void** save, void* load);
// Present under the address sanitizer, which must know which stack is in use.
[[gnu::weak]] void __sanitizer_start_switch_fiber(void** fake, const void* bottom, size_t size);
[[gnu::weak]] void __sanitizer_finish_switch_fiber(void* fake, const void** bottom, size_t* size);
[[gnu::weak]] void __asan_unpoison_memory_region(const volatile void* p, size_t size);
}

namespace emulator {
namespace {

constexpr size_t stack_bytes = 256 << 10, page = 4096, guard = 64;
constexpr unsigned char guard_byte = 0xa5;

struct Context {
  void* at = nullptr;
  void* fake = nullptr;
  const void* bottom = nullptr;
  size_t size = 0;
};

enum class State : uint8_t { fresh, ready, waits, done };
struct Copy {
  void* to;
  const void* from;
  size_t bytes, present;
};
struct Thread {
  Context context;
  char* stack = nullptr;
  State state = State::fresh;
  int barrier = -1;  // the named barrier it waits at; 0: __syncthreads
  const char* call = "";
  Place at;
  const void* what = nullptr;  // that it waits on
  Note note = nullptr;
  std::vector<Copy> copies;
  std::vector<size_t> groups;  // copies of each open group, oldest first
  size_t ungrouped = 0;
};

struct Meeting {
  unsigned mask, arrived;
  const char* call;
  Place at;
  Finish finish;
  void* item[32];
};
struct Barrier {
  int arrived = 0, threads = 0;
  Place at;
  int count = 0;
};

struct State_of_launch {
  const Launch* launch = nullptr;
  void (*body)(const void*) = nullptr;
  const void* call = nullptr;
  std::exception_ptr failure;
} current;

Thread threads[most_threads];
unsigned thread_count, live, now, warps;
std::vector<Meeting> meetings[most_threads / 32];
unsigned exited[most_threads / 32];  // lanes
Barrier barriers[16];
int barrier_result, barrier_arrived;

struct Queue {  // a ring of those that may run
  uint16_t of[most_threads];
  unsigned head = 0, size = 0;
  void put(uint16_t t) { of[(head + size++) % most_threads] = t; }
  unsigned take() {
    const unsigned t = of[head];
    head = (head + 1) % most_threads, --size;
    return t;
  }
} queues[2];  // the second: those who give way to all others
bool slow[most_threads];

Context main_context;
std::vector<char*> free_stacks;
char* dying_stack;  // left for good by the fiber that jumps next

void* dynamic = nullptr;
size_t dynamic_bytes = 0, static_bytes = 0;

// ---- Order. ----

struct Order {
  int kind = 0;  // 0 forward, 1 backward, 2 shuffled
  uint64_t state = 1;
  uint32_t below(uint32_t n) {  // SplitMix64
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return uint32_t((z ^ z >> 31) >> 32) * uint64_t(n) >> 32;
  }
  void arrange(uint16_t* list, unsigned n) {
    if (kind == 1) std::reverse(list, list + n);
    if (kind == 2)
      for (unsigned i = n; i > 1; --i) std::swap(list[i - 1], list[below(i)]);
  }
} order;

void choose_order() {
  static const char* wanted = std::getenv("TAPER_EMULATOR_ORDER");
  static uint64_t launches = 0;
  if (!wanted || !*wanted) {
    order.kind = int(launches++ % 3);
    return;
  }
  if (launches++ > 0) return;
  const uint64_t seed = std::strtoull(wanted, nullptr, 10);
  order.kind = int(std::min<uint64_t>(seed, 2));
  order.state = seed;
}

void enqueue(uint16_t* list, unsigned n) {
  order.arrange(list, n);
  for (unsigned i = 0; i < n; ++i) queues[slow[list[i]]].put(list[i]);
}
bool none_can_run() { return queues[0].size + queues[1].size == 0; }
unsigned next_of_queue() { return queues[queues[0].size == 0].take(); }

// Who gives way in the block that begins.
void choose_slow() {
  std::fill_n(slow, thread_count, false);
  if (order.kind != 2) return;
  const unsigned choice = order.below(4), size = choice == 2 ? 128 : 32;
  if (choice == 0) return;
  const unsigned which = order.below((thread_count + size - 1) / size);
  for (unsigned t = 0; t < thread_count; ++t) slow[t] = (t / size == which) != (choice == 3);
}

// ---- Messages. ----

std::string place(const Place& at) { return std::string(at.file_name()) + ":" + std::to_string(at.line()); }
std::string coordinates(uint3 v) {
  return "(" + std::to_string(v.x) + "," + std::to_string(v.y) + "," + std::to_string(v.z) + ")";
}
bool same(const Place& a, const Place& b) {
  return a.line() == b.line() && (a.file_name() == b.file_name() || std::strcmp(a.file_name(), b.file_name()) == 0);
}
std::string where_all_wait() {  // in words
  std::map<std::string, std::vector<unsigned>> groups;
  for (unsigned t = 0; t < thread_count; ++t)
    if (threads[t].state == State::waits)
      groups[std::string(threads[t].call) + " " + place(threads[t].at) + (threads[t].what ? threads[t].note(threads[t].what) : "")]
          .push_back(t);
  for (unsigned w = 0; w < warps; ++w)
    for (const Meeting& m : meetings[w]) {
      char mask[16];
      std::snprintf(mask, sizeof mask, "%08x", m.mask);
      groups["  in warp " + std::to_string(w) + " lanes of mask " + mask + " at " + m.call + " " + place(m.at)]
          .push_back(0);
    }
  std::string text;
  int lines = 0;
  for (const auto& [what, who] : groups) {
    if (++lines > 12) return text + "\n     ...";
    text += "\n     ";
    if (what[0] == ' ') {
      text += what;
      continue;
    }
    text += std::to_string(who.size()) + " threads wait at " + what + ":";
    for (size_t i = 0; i < std::min<size_t>(who.size(), 8); ++i) text += " " + std::to_string(who[i]);
    if (who.size() > 8) text += "...";
  }
  return text + "\n     " + std::to_string(thread_count - live) + " of " + std::to_string(thread_count) +
         " have returned";
}

// ---- Fibers. ----

void jump(Context& from, Context& to, bool for_good = false) {
  if (__sanitizer_start_switch_fiber)
    __sanitizer_start_switch_fiber(for_good ? nullptr : &from.fake, to.bottom, to.size);
  emulator_switch(&from.at, to.at);
  if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(from.fake, nullptr, nullptr);
}

void fiber_main();

char* new_stack() {
  if (!free_stacks.empty()) {
    char* stack = free_stacks.back();
    free_stacks.pop_back();
    return stack;
  }
  void* p =
      mmap(nullptr, page + stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  mprotect(p, page, PROT_NONE);  // a stack that grows too far stops here
  return static_cast<char*>(p) + page;
}

void prepare_stack(Thread& t) {
  static unsigned colour = 0;  // stacks of one alignment would share few lines of the cache
  t.stack = new_stack();
  if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(t.stack, stack_bytes);
  void** top = reinterpret_cast<void**>(t.stack + stack_bytes - 64 - (colour++ % 64) * 192);
  *--top = nullptr;  // the address to return to: none. fiber_main begins as after a call, 8 below a multiple of 16
  *--top = reinterpret_cast<void*>(fiber_main);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  t.context = {top, nullptr, t.stack, stack_bytes};
}

void become(unsigned t) {
  now = t;
  const unsigned x = blockDim.x, y = blockDim.y;
  threadIdx = {t % x, t / x % y, t / (x * y)};
}

[[noreturn]] void deadlock() { fault("deadlock: nobody can go on" + where_all_wait(), current.launch->at); }

// Where nobody can run, the engines go on; sometimes they do before.
void let_engines_work() {
  if (order.kind == 2 && order.below(8) == 0) copies::go_on();
  while (none_can_run()) {
    if (order.kind == 2 && order.below(2) == 0 && products::go_on()) continue;
    if (!copies::go_on() && !products::go_on()) deadlock();
  }
}

// The running thread waits; the next one runs. Returns when this one may go on.
void give_way() {
  let_engines_work();
  const unsigned me = now, next = next_of_queue();
  if (next == me) return;  // released within the call that made it wait
  Thread& t = threads[next];
  if (t.state == State::fresh) prepare_stack(t);
  t.state = State::ready;
  become(next);
  jump(threads[me].context, t.context);
}

void release_barrier(int id) {
  Barrier& b = barriers[id];
  if (id == 0) barrier_result = b.count, barrier_arrived = b.arrived;
  b.arrived = b.count = 0;
  uint16_t list[most_threads];
  unsigned n = 0;
  for (unsigned t = 0; t < thread_count; ++t)
    if (threads[t].state == State::waits && threads[t].barrier == id) {
      threads[t].state = State::ready;
      threads[t].barrier = -1;
      list[n++] = uint16_t(t);
    }
  enqueue(list, n);
}

void finish_meeting(unsigned warp, size_t i) {
  Meeting m = meetings[warp][i];
  meetings[warp].erase(meetings[warp].begin() + long(i));
  m.finish(m.item, m.arrived);
  uint16_t list[32];
  unsigned n = 0;
  for (unsigned rest = m.arrived; rest; rest &= rest - 1) {
    list[n] = uint16_t(32 * warp + unsigned(std::countr_zero(rest)));
    threads[list[n++]].state = State::ready;
  }
  enqueue(list, n);
}

void do_copies(Thread& t, size_t n) {
  for (size_t i = 0; i < n; ++i) {
    const Copy& c = t.copies[i];
    if (c.present > 0) std::memcpy(c.to, c.from, c.present);
    if (c.present < c.bytes) std::memset(static_cast<char*>(c.to) + c.present, 0, c.bytes - c.present);
  }
  t.copies.erase(t.copies.begin(), t.copies.begin() + long(n));
}

void thread_ends() {
  Thread& t = threads[now];
  do_copies(t, t.copies.size());
  t.groups.clear();
  t.ungrouped = 0;
  copies::end_thread();
  products::end_thread();
  t.state = State::done;
  --live;
  const unsigned warp = now / 32;
  exited[warp] |= 1u << now % 32;
  for (size_t i = 0; i < meetings[warp].size();)
    if (Meeting& m = meetings[warp][i]; (m.mask & ~exited[warp] & ~m.arrived) == 0) finish_meeting(warp, i);
    else ++i;
  if (live > 0 && barriers[0].arrived == int(live)) release_barrier(0);
}

void fiber_main() {
  if (__sanitizer_finish_switch_fiber) {
    const void* bottom = nullptr;
    size_t size = 0;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
    if (!main_context.bottom) main_context.bottom = bottom, main_context.size = size;
  }
  char* const stack = threads[now].stack;
  Context gone;
  for (;;) {
    try {
      current.body(current.call);
      thread_ends();
      if (live > 0) let_engines_work();
    } catch (...) {
      current.failure = std::current_exception();
    }
    if (current.failure || live == 0) {
      free_stacks.push_back(stack);
      threads[now].stack = nullptr;
      jump(gone, main_context, true);
    }
    threads[now].stack = nullptr;
    const unsigned next = next_of_queue();
    Thread& t = threads[next];
    const bool fresh = t.state == State::fresh;
    t.state = State::ready;
    become(next);
    if (fresh) {
      t.stack = stack;
      t.context = {nullptr, nullptr, stack, stack_bytes};
      continue;
    }
    free_stacks.push_back(stack);
    jump(gone, t.context, true);
  }
}

void run_block(unsigned block) {
  const dim3 g = gridDim;
  blockIdx = {block % g.x, block / g.x % g.y, block / (g.x * g.y)};
  ++block_number;
  static_bytes = 0;
  std::memset(dynamic, 0xff, dynamic_bytes);
  live = thread_count;
  for (Queue& q : queues) q.head = q.size = 0;
  choose_slow();
  for (Barrier& b : barriers) b = Barrier{};
  copies::begin_block();
  products::begin_block();
  for (unsigned w = 0; w < warps; ++w) {
    meetings[w].clear();
    exited[w] = w + 1 < warps || thread_count % 32 == 0 ? 0 : ~0u << thread_count % 32;
  }
  uint16_t list[most_threads];
  for (unsigned t = 0; t < thread_count; ++t) {
    threads[t].state = State::fresh;
    threads[t].what = nullptr;
    list[t] = uint16_t(t);
  }
  enqueue(list, thread_count);
  const unsigned first = next_of_queue();
  prepare_stack(threads[first]);
  threads[first].state = State::ready;
  become(first);
  main_context.bottom = nullptr;
  jump(main_context, threads[first].context);
  if (!current.failure) {
    copies::end_block();
    const auto* end = static_cast<const unsigned char*>(dynamic) + dynamic_bytes;
    if (!__sanitizer_start_switch_fiber &&
        std::any_of(end, end + guard, [](unsigned char c) { return c != guard_byte; }))
      fault("wrote past the end of its " + std::to_string(dynamic_bytes) + " bytes of dynamic shared memory",
            current.launch->at);
    return;
  }
  for (unsigned t = 0; t < thread_count; ++t) {  // what the others held is lost
    if (threads[t].stack) free_stacks.push_back(threads[t].stack);
    threads[t].stack = nullptr;
    threads[t].copies.clear();
    threads[t].groups.clear();
    threads[t].ungrouped = 0;
  }
  std::rethrow_exception(std::exchange(current.failure, nullptr));
}

void want_dynamic(size_t bytes) {
  static size_t have = 0;
  if (!dynamic || have != bytes) {
    std::free(dynamic);
    const size_t more = __sanitizer_start_switch_fiber ? 0 : guard;
    if (posix_memalign(&dynamic, 1024, std::max<size_t>(bytes + more, 1)) != 0) throw std::bad_alloc();
    std::memset(static_cast<char*>(dynamic) + bytes, guard_byte, more);
    have = bytes;
  }
  dynamic_bytes = bytes;
}

std::map<const void*, size_t>& shared_limits() {
  static std::map<const void*, size_t> limits;
  return limits;
}

}  // namespace

void finish_product(void* const* items, unsigned lanes) {
  if (lanes != ~0u) fault("mma wants all 32 lanes", threads[now].at);
  float a[16][16], b[16][8], d[16][8];
  for (int l = 0; l < 32; ++l) {
    const Product& p = *static_cast<Product*>(items[l]);
    const int g = l / 4, q = l % 4;
    for (int i = 0; i < 4; ++i) {
      const int row = g + 8 * (i % 2), column = 2 * q + 8 * (i / 2);
      a[row][column] = low_bf16(p.a[i]);
      a[row][column + 1] = high_bf16(p.a[i]);
    }
    for (int i = 0; i < 2; ++i) {
      b[2 * q + 8 * i][g] = low_bf16(p.b[i]);
      b[2 * q + 8 * i + 1][g] = high_bf16(p.b[i]);
    }
    for (int i = 0; i < 4; ++i) d[g + 8 * (i / 2)][2 * q + i % 2] = p.d[i];
  }
  for (int i = 0; i < 16; ++i)
    for (int k = 0; k < 16; ++k)
      for (int j = 0; j < 8; ++j) d[i][j] += a[i][k] * b[k][j];
  for (int l = 0; l < 32; ++l) {
    const Product& p = *static_cast<Product*>(items[l]);
    const int g = l / 4, q = l % 4;
    for (int i = 0; i < 4; ++i) p.d[i] = d[g + 8 * (i / 2)][2 * q + i % 2];
  }
}

void fault(const std::string& what, Place at) {
  std::string text = "emulator: ";
  if (current.launch) text += running_kernel() + ": ";
  taper::raise(text + what + " (" + place(at) + ")", at);
}

std::string running_kernel() {
  if (!current.launch) return "";
  return std::string(current.launch->kernel) + ", block " + coordinates(blockIdx) + ", thread " +
         coordinates(threadIdx);
}

bool launch_fits(const Launch& l) {
  const auto refuse = [&](cudaError_t e, const std::string& what) {
    last_error = e;
    last_error_text = std::string(l.kernel) + ": " + what;
    return false;
  };
  const auto product = [](dim3 d) { return uint64_t(d.x) * d.y * d.z; };
  const uint64_t blocks = product(l.grid), per_block = product(l.block);
  if (blocks == 0 || l.grid.x > 0x7fffffffu || l.grid.y > 65535 || l.grid.z > 65535)
    return refuse(cudaErrorInvalidConfiguration, "a grid of " + std::to_string(l.grid.x) + " x " +
                                                     std::to_string(l.grid.y) + " x " + std::to_string(l.grid.z) +
                                                     " blocks");
  if (per_block == 0 || per_block > most_threads || l.block.z > 64)
    return refuse(cudaErrorInvalidConfiguration, "a block of " + std::to_string(per_block) + " threads");
  const auto asked = shared_limits().find(l.function);
  const size_t limit = l.function == nullptr            ? most_shared
                       : asked == shared_limits().end() ? most_shared_unasked
                                                        : std::max(asked->second, most_shared_unasked);
  if (l.shared > limit)
    return refuse(cudaErrorInvalidValue, std::to_string(l.shared) + " bytes of dynamic shared memory, " +
                                             std::to_string(limit) + " allowed: cudaFuncSetAttribute comes first");
  return true;
}

void set_shared_limit(const void* function, size_t bytes) { shared_limits()[function] = bytes; }

void check_pointer(const Launch& l, const void* p) {
  if (p && !points_into_memory(p))
    taper::raise("emulator: " + std::string(l.kernel) + ": an argument points to no live memory of the device (" +
                     place(l.at) + ")",
                 l.at);
}

void run(const Launch& l, void (*body)(const void*), const void* call) {
  if (current.launch) fault("a kernel launches a kernel", l.at);
  choose_order();
  const MemoryInUse in_use;
  current = {&l, body, call, nullptr};
  gridDim = l.grid;
  blockDim = l.block;
  thread_count = l.block.x * l.block.y * l.block.z;
  warps = (thread_count + 31) / 32;
  struct Ended {
    ~Ended() { current.launch = nullptr; }
  } ended;
  want_dynamic(l.shared);
  const uint64_t blocks = uint64_t(l.grid.x) * l.grid.y * l.grid.z;
  uint64_t step = 1, at = 0;  // block i is number at + i step: all of them, where step shares no factor with blocks
  if (order.kind == 1) step = blocks - 1, at = blocks - 1;
  if (order.kind == 2 && blocks > 1) {
    at = order.below(uint32_t(blocks));
    do step = 1 + order.below(uint32_t(blocks));
    while (std::gcd(step, blocks) != 1);
  }
  for (uint64_t i = 0; i < blocks; ++i) run_block(unsigned((at + i * step) % blocks));
  check_guards(l.kernel);
}

void check_launch_bounds(unsigned most, Place at) {
  if (thread_count > most)
    fault("launched with " + std::to_string(thread_count) + " threads; its __launch_bounds__ allow " +
              std::to_string(most),
          at);
}

const size_t most_shared = [] {
  const char* wanted = std::getenv("TAPER_EMULATOR_SHARED");
  return wanted ? size_t(std::atoll(wanted)) : size_t(232448);
}();

const int capability = [] {
  const char* wanted = std::getenv("TAPER_EMULATOR_CAPABILITY");
  const std::string text = wanted && *wanted ? wanted : "90";
  if (text == "80" || text == "90") return std::atoi(text.c_str());
  std::fprintf(stderr, "emulator: TAPER_EMULATOR_CAPABILITY is 80 or 90; got '%s'\n", text.c_str());
  std::_Exit(2);
}();

void want_hopper(const char* call, Place at) {
  if (capability != 90) fault(std::string(call) + " on a card of capability 8.0", at);
}

void declare_shared(void* p, size_t bytes, Place at) {
  std::memset(p, 0xff, bytes);
  static_bytes += bytes;
  if (static_bytes > most_shared_unasked || static_bytes + dynamic_bytes > most_shared)
    fault("shared memory: " + std::to_string(static_bytes) + " bytes of arrays and " + std::to_string(dynamic_bytes) +
              " dynamic; at most " + std::to_string(most_shared_unasked) + " and " + std::to_string(most_shared) +
              " in all",
          at);
}

void* dynamic_shared() { return dynamic; }

int barrier(Reduce how, bool value, Place at) {
  Barrier& b = barriers[0];
  Thread& t = threads[now];
  t.call = "__syncthreads";
  t.at = at;
  if (b.arrived == 0) {
    b.at = at;
  } else if (!same(b.at, at)) {
    fault("threads of one block wait at different barriers, one at " + place(b.at) + " and this one", at);
  }
  b.count += value;
  t.state = State::waits;
  t.barrier = 0;
  if (++b.arrived == int(live)) release_barrier(0);
  give_way();
  return how == Reduce::all   ? barrier_result == barrier_arrived
         : how == Reduce::any ? barrier_result > 0
                              : barrier_result;
}

void named_barrier(int id, int count, bool wait, Place at) {
  if (id < 0 || id > 15 || count <= 0 || count % 32 != 0 || count > int(thread_count))
    fault("barrier " + std::to_string(id) + " of " + std::to_string(count) + " threads", at);
  Barrier& b = barriers[id];
  if (b.arrived == 0) b.threads = count;
  else if (b.threads != count)
    fault("barrier " + std::to_string(id) + " is asked for with different numbers of threads", at);
  Thread& t = threads[now];
  t.call = "named barrier";
  t.at = at;
  if (wait) t.state = State::waits, t.barrier = id;
  if (++b.arrived == count) release_barrier(id);
  if (wait) give_way();
}

unsigned running() { return now; }
unsigned threads_of_block() { return thread_count; }
size_t dynamic_shared_bytes() { return dynamic_bytes; }
bool at_once() { return order.kind == 1 || (order.kind == 2 && order.below(2) == 0); }
uint32_t below(uint32_t n) { return order.kind == 2 ? order.below(n) : 0; }

void wait_on(const void* what, const char* call, Note note, Place at) {
  Thread& t = threads[now];
  t.call = call, t.at = at, t.what = what, t.note = note;
  t.state = State::waits;
  t.barrier = -1;
  give_way();
}
void release(const void* what) {
  uint16_t list[most_threads];
  unsigned n = 0;
  for (unsigned t = 0; t < thread_count; ++t)
    if (threads[t].state == State::waits && threads[t].what == what) {
      threads[t].state = State::ready;
      threads[t].what = nullptr;
      list[n++] = uint16_t(t);
    }
  enqueue(list, n);
}

unsigned lane() { return now % 32; }
unsigned live_lanes() { return ~exited[now / 32]; }

void meet(unsigned mask, const char* call, void* item, Finish finish, Place at) {
  const unsigned warp = now / 32, bit = 1u << now % 32;
  if (!(mask & bit)) fault(std::string(call) + ": the calling lane is not in its own mask", at);
  Thread& t = threads[now];
  t.call = call;
  t.at = at;
  auto& open = meetings[warp];
  size_t i = 0;
  while (i < open.size() && open[i].mask != mask) ++i;
  if (i == open.size()) {
    Meeting& m = open.emplace_back();
    m.mask = mask, m.arrived = 0, m.call = call, m.at = at, m.finish = finish;
  } else if (open[i].finish != finish || !same(open[i].at, at)) {
    fault("lanes of one warp meet in different calls, " + std::string(open[i].call) + " " + place(open[i].at) +
              " and " + call,
          at);
  }
  open[i].item[now % 32] = item;
  open[i].arrived |= bit;
  t.state = State::waits;
  t.barrier = -1;
  if ((mask & ~exited[warp] & ~open[i].arrived) == 0) finish_meeting(warp, i);
  give_way();
}

void async_copy(void* to, const void* from, size_t bytes, size_t present, Place at) {
  if (reinterpret_cast<uintptr_t>(to) % bytes != 0 || reinterpret_cast<uintptr_t>(from) % bytes != 0)
    fault("cp.async: an address is not " + std::to_string(bytes) + "-byte aligned", at);
  Thread& t = threads[now];
  t.copies.push_back({to, from, bytes, present});
  if (order.kind == 1) do_copies(t, t.copies.size());
  else ++t.ungrouped;
}
void async_commit() {
  Thread& t = threads[now];
  t.groups.push_back(std::exchange(t.ungrouped, 0));
}
void async_wait(size_t pending) {
  Thread& t = threads[now];
  while (t.groups.size() > pending) {
    do_copies(t, t.groups.front());
    t.groups.erase(t.groups.begin());
  }
}

}  // namespace emulator
