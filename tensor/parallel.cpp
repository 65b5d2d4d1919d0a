// The thread pool: workers sleep on a condition variable and take blocks from a shared counter.
#include "tensor/parallel.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>

#include "tensor/raise.h"

namespace taper {
namespace {

thread_local bool inside = false;  // this thread runs a block: nested calls stay on it

struct Job {
  int64_t blocks = 0;
  void (*run)(void*, int64_t) = nullptr;
  void* context = nullptr;
  std::atomic<int64_t> next{0};
  std::mutex error_mutex;
  std::exception_ptr error;
  int64_t error_block = 0;

  void work() {
    inside = true;
    for (int64_t b; (b = next.fetch_add(1, std::memory_order_relaxed)) < blocks;) {
      try {
        run(context, b);
      } catch (...) {
        const std::lock_guard lock(error_mutex);
        if (!error || b < error_block) error = std::current_exception(), error_block = b;
      }
    }
    inside = false;
  }
};

class Pool {
 public:
  explicit Pool(int threads) {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { serve(); });
  }
  ~Pool() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (std::thread& t : workers_) t.join();
  }
  void run(Job& job) {
    {
      const std::lock_guard lock(mutex_);
      job_ = &job;
      ++generation_;
    }
    wake_.notify_all();
    job.work();
    std::unique_lock lock(mutex_);
    job_ = nullptr;  // a worker that wakes late finds nothing
    done_.wait(lock, [&] { return busy_ == 0; });
  }

 private:
  void serve() {
    uint64_t seen = 0;
    std::unique_lock lock(mutex_);
    while (true) {
      wake_.wait(lock, [&] { return stop_ || (job_ && generation_ != seen); });
      if (stop_) return;
      seen = generation_;
      Job* job = job_;
      ++busy_;
      lock.unlock();
      job->work();
      lock.lock();
      if (--busy_ == 0) done_.notify_one();
    }
  }

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  Job* job_ = nullptr;
  uint64_t generation_ = 0;
  int busy_ = 0;
  bool stop_ = false;
};

int default_threads() {
  if (const char* text = std::getenv("TAPER_THREADS")) {
    const int n = std::atoi(text);
    if (n < 1) raise("TAPER_THREADS: must be a number >= 1; got '" + std::string(text) + "'");
    return n;
  }
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

std::mutex use;  // one job at a time: a loader's thread fills batches while others run kernels
std::atomic<int> threads = 0;

// A forked child has the pool's memory and none of its threads: nobody there can be woken or waited for, so it is left as it is.
struct EndPool {
  pid_t owner = ::getpid();
  void operator()(Pool* p) const {
    if (owner == ::getpid()) delete p;
  }
};
std::unique_ptr<Pool, EndPool> pool;

}  // namespace

int thread_count() {
  if (!threads) threads = default_threads();
  return threads;
}

void set_thread_count(int n) {
  if (n < 1) raise("threads: must be >= 1; got " + std::to_string(n));
  const std::lock_guard lock(use);
  pool.reset();
  threads = n;
}

namespace detail {

void run_blocks(int64_t blocks, void (*run)(void*, int64_t), void* context) {
  Job job;
  job.blocks = blocks;
  job.run = run;
  job.context = context;
  if (inside || thread_count() == 1 || blocks == 1) {
    const bool was = inside;
    job.work();
    inside = was;
  } else {
    const std::lock_guard lock(use);
    if (!pool) pool = {new Pool(threads), EndPool{}};
    pool->run(job);
  }
  if (job.error) std::rethrow_exception(job.error);
}

}  // namespace detail

}  // namespace taper
