// Prepare: texts into shards. Per document the stream holds EOD and then the document's tokens.
//
// A document goes to the validation split when the hash of its bytes falls into the share's part of
// all hashes, so that the same document always lands in the same split. A corpus of so few documents
// that a split would stay empty is cut otherwise: the last part of every document is validation. The
// report says so. `held_out` names inputs that are validation as a whole; then no others are, unless a
// share is given.
//
// Spellings of special tokens in a document are text like any other. A tokenizer from a file leaves it beside the shards.
//
// The shards follow from the inputs and the options alone: not from the number of threads, nor from
// interruptions. Memory does not grow with the corpus: some 150 MiB, and of a line four times its length.
//
// The output appears whole or not at all. Until then it is made in OUTPUT.partial, and where `save` asked
// for it the work done so far stays there when a run ends early, however it ends: the next run with the
// same options goes on from there. What it has packed already must be as it was; inputs further on may
// have been repaired. Another command's unfinished work is refused (73), unless `restart`.
//
// Errors: input missing 66, empty or bad input 65 (see documents.h, import.h), an output directory that is
// not empty 73. An error in the inputs is the first one in their order.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "data/documents.h"
#include "data/import.h"
#include "tensor/file.h"

namespace taper {

struct PrepareOptions {
  std::vector<Path> inputs;
  std::vector<Path> held_out = {};
  Path output;
  std::string tokenizer = "bytes";
  std::string text_field = "text";          // of JSON lines
  double validation = 0.05;                 // share of the documents, in [0, 1); 0: no validation split
  int64_t shard_tokens = int64_t(1) << 27;  // most tokens in one shard
  InvalidUtf8 invalid_utf8 = InvalidUtf8::error;
  // Inputs are token files of another program. The ids are those of `tokenizer`, or where that is "ids" of one
  // that is not known: then `vocab` and `eod` say all there is to say, and the shards' identity is "ids:VOCAB:EOD".
  Import import = Import::none;
  int64_t vocab = 0;  // 0: the tokenizer's
  int64_t eod = -1;   // -1: the tokenizer's
  bool overwrite = false;  // an output that is there
  bool restart = false;    // unfinished work is thrown away
  int64_t unit_bytes = int64_t(1) << 15;   // of text that a thread encodes at a time, about; and of text read at a time:
  int64_t batch_bytes = int64_t(4) << 20;  // neither changes what comes out
};

struct PrepareReport {
  struct Split {
    int64_t documents = 0, bytes = 0, tokens = 0, shards = 0;
  };
  Split train, validation;
  int64_t files = 0, skipped_files = 0;  // read; not text
  int64_t empty = 0;                     // documents without text, left out
  int64_t left_out = 0, replaced = 0;    // documents that were not UTF-8: left out; repaired
  int64_t forced_cuts = 0;  // places inside a word of more than 1 MiB where it was cut, so that tokens there may be others
  int64_t resumed_documents = 0;         // of those that an earlier run packed
  std::string note;  // how the corpus was split, where it was too small to be split by hash; else empty
  // Of the validation bytes (train, where there are none) under the train split's byte counts, each
  // raised by one: what a model that knows only how often each byte occurs would reach. 0 of an import.
  double unigram_bits_per_byte = 0;
};

struct PrepareProgress {
  int64_t file = 0, files = 0;     // the one being read, from 1
  int64_t documents = 0, bytes = 0, tokens = 0;  // packed so far: of text
  uint64_t done = 0, total = 0;    // bytes of the input files as they lie on the disk
  uint64_t begun = 0;              // `done` when this run began: more than 0 where it goes on
};

struct PrepareHooks {
  // Called often, from one thread at a time; what it throws stops the work.
  std::function<void(const PrepareProgress&)> progress = {};
  // Asked often: is it time to make what is done durable? `ending`: the run ends early; keep it?
  std::function<bool(bool ending)> save = {};
};

PrepareReport prepare(const PrepareOptions& options, const PrepareHooks& hooks = {});

}  // namespace taper
