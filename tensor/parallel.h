// Parallel: one pool of threads for the CPU device. Work is cut on a grid that depends on the work
// alone, so no result depends on the number of threads.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace taper {

int thread_count();            // default: the cores this process may use, or TAPER_THREADS
void set_thread_count(int n);  // >= 1; not while work runs. A forked child works alone until it calls this

namespace detail {
// Calls run(context, block) for block = 0..blocks-1, each once, on any thread; returns when all are
// done. An exception in a block is thrown again here (the lowest block's). Nested calls run inline.
void run_blocks(int64_t blocks, void (*run)(void*, int64_t), void* context);
}  // namespace detail

// f(begin, end) over [0, n) in blocks of `grain` (the last may be shorter).
template <class F>
void parallel_for(int64_t n, int64_t grain, F&& f) {
  if (n <= 0) return;
  const int64_t blocks = (n + grain - 1) / grain;
  if (blocks == 1) return f(int64_t(0), n);
  struct Context {
    F& f;
    int64_t n, grain;
  } context{f, n, grain};
  detail::run_blocks(
      blocks,
      [](void* p, int64_t block) {
        auto& c = *static_cast<Context*>(p);
        const int64_t begin = block * c.grain, end = begin + c.grain;
        c.f(begin, end < c.n ? end : c.n);
      },
      &context);
}

// The sum of f(begin, end) over the same blocks, added in block order.
template <class T, class F>
T parallel_sum(int64_t n, int64_t grain, F&& f) {
  if (n <= 0) return T(0);
  std::vector<T> partial(size_t((n + grain - 1) / grain));
  parallel_for(n, grain, [&](int64_t begin, int64_t end) { partial[size_t(begin / grain)] = f(begin, end); });
  T sum = 0;
  for (T p : partial) sum += p;
  return sum;
}

}  // namespace taper
