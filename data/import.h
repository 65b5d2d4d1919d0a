// Import: token files of other programs, as a corpus whose documents are ids.
//
//   nanogpt   raw u16 ids
//   llmc      1024 bytes of header, then u16 (magic 20240520, version 1) or u32 ids (magic 20240801, version 7)
//   megatron  NAME.bin and NAME.idx, any of their integer types
//
// A document ends, or begins, at an EOD: programs write it on either side, and what lies between two is the
// same document. Megatron's index ends documents too. EODs themselves are not taken: the shards have their
// own, one before each document. An empty document is left out and counted.
//
// Errors: a missing file 66; a header, an index or a size that does not fit, an id outside the vocabulary 65,
// with the file and the place.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "data/corpus.h"

namespace taper {

enum class Import { none, nanogpt, llmc, megatron };
std::string_view import_name(Import kind);

struct ImportOptions {
  Import kind = Import::none;
  int64_t vocab = 0;
  int32_t eod = 0;
  int64_t unit_ids = 1 << 14;  // that a thread packs at a time, about
};

// The .bin files of inputs (an .idx stands for its .bin; a directory for the .bin files in it), in order.
std::vector<InputFile> list_id_files(const std::vector<Path>& inputs);

// `rule` may be set until the first next(); `poll` is called now and then, and what it throws ends the work.
std::unique_ptr<Corpus> id_corpus(std::vector<InputFile> files, const ImportOptions& options, const SplitRule& rule,
                                  const std::function<void()>& poll);

}  // namespace taper
