// Loader: the prefetch thread and its queue, and the windows of a token stream.
#include "data/loader.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "data/permutation.h"
#include "tensor/error.h"
#include "tensor/parallel.h"

namespace taper {
namespace {

struct HostBatch {
  std::vector<int32_t> ids, labels, start, at, labels_at;
  int64_t labelled = 0;
  std::exception_ptr error;
};

}  // namespace

// Positions count all samples of all ranks since epoch 0. The consumer's thread owns `position`; what
// `mutex` guards is shared with the thread that makes batches from `making` on.
struct Loader::Worker {
  std::unique_ptr<Samples> samples;
  BatchOptions options;
  uint64_t count, position = 0;

  std::mutex mutex;
  std::condition_variable changed;
  std::deque<HostBatch> ready;
  uint64_t making = 0;
  bool stop = false;
  std::thread thread;

  uint64_t step() const { return uint64_t(options.batch * options.world); }
  bool ended(uint64_t at) const { return options.once && at >= count; }

  HostBatch make(uint64_t at) const {
    const size_t B = size_t(options.batch), T = size_t(samples->sequence());
    HostBatch b;
    b.ids.assign(B * T, 0);
    b.labels.assign(B * T, ignored_label);
    if (samples->resets()) b.start.assign(B * T, 0);
    try {
      parallel_for(int64_t(B), samples->concurrent() ? 4 : int64_t(B), [&](int64_t begin, int64_t end) {
        for (size_t r = size_t(begin); r < size_t(end); ++r) {
          const uint64_t sample = at + uint64_t(options.rank) * B + r;
          if (ended(sample)) continue;
          samples->fill(sample / count, sample % count,
                        {std::span(b.ids).subspan(r * T, T), std::span(b.labels).subspan(r * T, T),
                         b.start.empty() ? nullptr : &b.start[r * T]});
        }
      });
    } catch (...) {
      b.error = std::current_exception();
    }
    b.labelled = int64_t(b.labels.size()) - std::ranges::count(b.labels, ignored_label);
    if (2 * samples->labels() <= samples->sequence()) list_labels(b, T);
    return b;
  }

  void list_labels(HostBatch& b, size_t T) const {
    for (size_t begin = 0; begin < b.labels.size(); begin += T) {
      const std::span row = std::span(b.labels).subspan(begin, T);
      int64_t spare = samples->labels() - (int64_t(T) - std::ranges::count(row, ignored_label));
      for (size_t t = 0; t < T; ++t) {
        if (row[t] == ignored_label && --spare < 0) continue;
        b.at.push_back(int32_t(begin + t));
        b.labels_at.push_back(row[t]);
      }
    }
  }

  void run() {
    std::unique_lock lock(mutex);
    while (true) {
      changed.wait(lock, [&] { return stop || (int64_t(ready.size()) < options.prefetch && !ended(making)); });
      if (stop) return;
      const uint64_t at = making;
      lock.unlock();
      HostBatch b = make(at);
      lock.lock();
      ready.push_back(std::move(b));
      making = at + step();
      changed.notify_all();
    }
  }

  HostBatch take() {
    if (options.prefetch == 0) return make(position);
    if (!thread.joinable()) {
      stop = false;
      making = position;
      thread = std::thread([this] { run(); });
    }
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return !ready.empty(); });
    HostBatch b = std::move(ready.front());
    ready.pop_front();
    changed.notify_all();
    return b;
  }

  void halt() {
    if (!thread.joinable()) return;
    {
      const std::lock_guard lock(mutex);
      stop = true;
    }
    changed.notify_all();
    thread.join();
    ready.clear();
  }
};

Loader::Loader(std::unique_ptr<Samples> samples, const BatchOptions& options, Device& device)
    : worker_(std::make_unique<Worker>()), device_(device) {
  check(options.batch >= 1 && options.world >= 1 && 0 <= options.rank && options.rank < options.world &&
            options.prefetch >= 0,
        Exit::bad_config, "loader: wants batch >= 1 and rank in [0,world); got batch {}, rank {} of {}, prefetch {}",
        options.batch, options.rank, options.world, options.prefetch);
  worker_->count = uint64_t(samples->count());
  worker_->samples = std::move(samples);
  worker_->options = options;
}

Loader::~Loader() { worker_->halt(); }

Batch Loader::next() {
  check(!worker_->ended(worker_->position), "loader: the pass is over; remaining() was 0");
  HostBatch b = worker_->take();
  if (b.error) {
    worker_->halt();  // asked again, it tries again from here
    std::rethrow_exception(b.error);
  }
  worker_->position += worker_->step();
  const Shape shape{worker_->options.batch, worker_->samples->sequence()};
  Batch batch{from_host(device_, shape, b.ids), from_host(device_, shape, b.labels), {}, b.labelled};
  if (!b.at.empty()) {
    batch.at = from_host(device_, {int64_t(b.at.size())}, b.at);
    batch.labels_at = from_host(device_, {int64_t(b.at.size())}, b.labels_at);
  }
  if (!b.start.empty()) batch.packing.start = from_host(device_, shape, b.start);
  return batch;
}

Cursor Loader::cursor() const {
  return {worker_->position / worker_->count, worker_->position % worker_->count};
}

void Loader::seek(const Cursor& cursor) {
  check(cursor.index < worker_->count, Exit::bad_data,
        "loader: the data have {} samples in an epoch; sample {} asked; do they belong to this run?", worker_->count,
        cursor.index);
  worker_->halt();
  worker_->position = cursor.epoch * worker_->count + cursor.index;
}

int64_t Loader::samples_per_epoch() const { return int64_t(worker_->count); }

int64_t Loader::remaining() const {
  if (!worker_->options.once) return -1;
  const uint64_t left = worker_->count - std::min(worker_->count, worker_->position);
  return int64_t((left + worker_->step() - 1) / worker_->step());
}

int64_t Loader::vocab() const { return worker_->samples->vocab(); }
std::string Loader::identity() const { return worker_->samples->identity(); }

namespace {

class Windows final : public Samples {
 public:
  explicit Windows(const TokenOptions& o) : o_(o), stream_(o.directory, o.split, o.tokenizer) {
    check(o.sequence >= 1 && o.max_tokens >= 0, Exit::bad_config,
          "loader: wants sequence >= 1 and max_tokens >= 0; got {} and {}", o.sequence, o.max_tokens);
    tokens_ = stream_.tokens();
    if (o.max_tokens > 0) tokens_ = std::min(tokens_, o.max_tokens + 1);
    const int64_t needed = o.shuffle ? o.sequence + 1 : 2;
    check(tokens_ >= needed, Exit::bad_data,
          "{}: the {} split has {} tokens; a sample of sequence {} needs {}; give more text or a shorter sequence",
          o.directory.string(), o.split, tokens_, o.sequence, needed);
    count_ = o.shuffle ? (tokens_ - 1) / o.sequence : (tokens_ - 1 + o.sequence - 1) / o.sequence;
    window_.resize(size_t(o.sequence) + 1);
  }
  int64_t count() const override { return count_; }
  int64_t sequence() const override { return o_.sequence; }
  bool resets() const override { return o_.reset; }
  int64_t vocab() const override { return stream_.vocab(); }
  int64_t labels() const override { return o_.sequence; }
  bool concurrent() const override { return false; }  // a stream keeps blocks that it has decoded
  std::string identity() const override {
    return fmt::format("{} {} {} tokens {} sequence {} {} {} seed {}", stream_.tokenizer(), o_.split, tokens_,
                       checksum_text(stream_.content()), o_.sequence, o_.reset ? "reset" : "carry",
                       o_.shuffle ? "shuffled" : "in order", o_.seed);
  }

  void fill(uint64_t epoch, uint64_t index, const Row& row) override {
    const uint64_t sample = o_.shuffle ? Permutation(uint64_t(count_), o_.seed, epoch)(index) : index;
    const int64_t begin = int64_t(sample) * o_.sequence;
    const int64_t n = std::min(o_.sequence, tokens_ - 1 - begin);
    stream_.read(begin, std::span(window_).first(size_t(n) + 1));
    std::copy_n(window_.begin(), n, row.ids.begin());
    std::copy_n(window_.begin() + 1, n, row.labels.begin());
    if (!row.start) return;
    for (const int64_t start : stream_.documents(begin, begin + n))
      std::fill(row.start + (start - begin), row.start + o_.sequence, int32_t(start - begin));
  }

 private:
  TokenOptions o_;
  TokenStream stream_;
  int64_t tokens_ = 0, count_ = 0;
  std::vector<int32_t> window_;
};

BatchOptions batching(const TokenOptions& o) {
  BatchOptions b = o;
  b.once = o.once || !o.shuffle;
  return b;
}

}  // namespace

TokenLoader::TokenLoader(const TokenOptions& options, Device& device)
    : Loader(std::make_unique<Windows>(options), batching(options), device) {}

}  // namespace taper
