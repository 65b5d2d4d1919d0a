// Prepare: texts into shards. Per document the stream holds EOD and then the document's tokens.
//
// A document goes to the validation split when the hash of its bytes falls into the share's part of
// all hashes, so that the same document always lands in the same split. A corpus of so few documents
// that a split stays empty is cut otherwise: the last part of every document is validation. The report
// says so.
//
// Spellings of special tokens in a document are text like any other. A tokenizer from a file leaves it beside the shards.
//
// The output appears whole or not at all. Errors: input missing 66, empty or bad input 65 (see
// documents.h), an output directory that is not empty 73.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "tensor/file.h"

namespace taper {

struct PrepareOptions {
  std::vector<Path> inputs;
  Path output;
  std::string tokenizer = "bytes";
  std::string text_field = "text";          // of JSON lines
  double validation = 0.05;                 // share of the documents, in [0, 1); 0: no validation split
  int64_t shard_tokens = int64_t(1) << 27;  // most tokens in one shard
  bool overwrite = false;
};

struct PrepareReport {
  struct Split {
    int64_t documents = 0, bytes = 0, tokens = 0, shards = 0;
  };
  Split train, validation;
  int64_t files = 0, skipped_files = 0;  // read; not text
  std::string note;  // how the corpus was split, where it was too small to be split by hash; else empty
  // Of the validation bytes (train, where there are none) under the train split's byte counts, each
  // raised by one: what a model that knows only how often each byte occurs would reach.
  double unigram_bits_per_byte = 0;
};

struct PrepareProgress {
  int64_t file = 0, files = 0;  // the one being read, from 1
  int64_t documents = 0, bytes = 0;
};

// `progress` is called often; what it throws stops the work and leaves nothing behind.
PrepareReport prepare(const PrepareOptions& options, const std::function<void(const PrepareProgress&)>& progress = {});

}  // namespace taper
