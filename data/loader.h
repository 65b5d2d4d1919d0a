// Loader: samples into batches, in a known order, made ahead of time by one thread (and the pool's, of samples that allow it).
//
// The batches of all ranks together take the samples of an epoch in order, each exactly once; rank r
// of W takes rows [r B, (r+1) B) of every B W samples. A batch may reach into the next epoch. The
// order depends on (seed, epoch) alone, so the same samples come in the same steps whatever the
// number of ranks that share them.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "data/shard.h"
#include "tensor/packing.h"
#include "tensor/tensor.h"

namespace taper {

constexpr int32_t ignored_label = -100;

struct Batch {
  Tensor ids, labels;    // [B,T] i32; label of a position: the next token, or ignored_label
  Packing packing;       // start where documents reset, else absent
  int64_t labelled = 0;  // labels that are not ignored
  // Of samples with few labels, as MQAR's: the positions that have one, as rising indices into B T, and their labels, [n] i32.
  // Rows with fewer labels than others may have list some without, so that n is the same in each batch and a recorded step fits
  // all. Absent where samples have labels at more than half of the positions: picking those out saves nothing.
  Tensor at = {}, labels_at = {};

  const Tensor& wanted() const { return at ? labels_at : labels; }  // with at: what a loss is computed of
};

// The position of the next batch that the consumer will get (not of those made ahead). Counts the
// samples of all ranks: index < samples_per_epoch. Equal on every rank.
struct Cursor {
  uint64_t epoch = 0, index = 0;
  bool operator==(const Cursor&) const = default;
};

class BatchSource {
 public:
  virtual ~BatchSource() = default;
  virtual Batch next() = 0;
  virtual Cursor cursor() const = 0;
  virtual void seek(const Cursor& cursor) = 0;
  virtual int64_t samples_per_epoch() const = 0;
  virtual int64_t remaining() const = 0;  // batches left of a single pass; -1: there is no end
  virtual int64_t vocab() const = 0;
  virtual std::string identity() const = 0;  // what the samples and their order follow from: equal on resume
};

// Where one sample is written: T entries each. `start` is null where documents do not reset.
struct Row {
  std::span<int32_t> ids, labels;
  int32_t* start = nullptr;
};

// Numbered samples; sample i of an epoch is a pure function of (epoch, i).
class Samples {
 public:
  virtual ~Samples() = default;
  virtual int64_t count() const = 0;  // in an epoch, >= 1
  virtual int64_t sequence() const = 0;
  virtual bool resets() const = 0;    // rows have starts
  virtual int64_t vocab() const = 0;
  virtual std::string identity() const = 0;
  virtual int64_t labels() const = 0;   // in a sample, at most
  virtual bool concurrent() const = 0;  // whether threads may fill rows at once; else one at a time
  virtual void fill(uint64_t epoch, uint64_t index, const Row& row) = 0;  // ids 0, labels ignored, starts 0 before
};

struct BatchOptions {
  int64_t batch = 1;            // B: rows of this rank
  int64_t rank = 0, world = 1;
  bool once = false;            // one pass; the last batch is filled up with rows without labels
  int64_t prefetch = 2;         // batches made ahead; 0: none, and no thread
};

// Batches from any samples. An error of the thread is thrown by the next() that would have got its batch.
class Loader : public BatchSource {
 public:
  Loader(std::unique_ptr<Samples> samples, const BatchOptions& options, Device& device);
  ~Loader() override;
  Batch next() override;
  Cursor cursor() const override;
  void seek(const Cursor& cursor) override;
  int64_t samples_per_epoch() const override;
  int64_t remaining() const override;
  int64_t vocab() const override;
  std::string identity() const override;

 private:
  struct Worker;
  std::unique_ptr<Worker> worker_;
  Device& device_;
};

struct TokenOptions : BatchOptions {
  Path directory;            // of shards
  std::string split = "train";
  std::string tokenizer;     // identity wanted; empty: any
  int64_t sequence = 512;    // T
  bool reset = true;         // documents = "reset": state begins anew at each document start; false: "carry"
  bool shuffle = true;       // false: in stream order, one pass, the last window filled up with ignored labels
  uint64_t seed = 0;
  int64_t max_tokens = 0;    // label no more than the first so many tokens of the stream; 0: all
};

// Sample i is the window of stream tokens [iT, iT+T]: T inputs, T labels. Too few tokens for a sample: 65.
class TokenLoader : public Loader {
 public:
  TokenLoader(const TokenOptions& options, Device& device);
};

}  // namespace taper
