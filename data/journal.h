// Journal: how far `taper prepare` has come, in the directory it works in.
//
// `journal` is replaced as a whole, after all that it speaks of is on the disk: the inputs already read (in
// `journal.files`, a JSON array per line), the place in the input, and of each split the shard being filled
// with the tokens of its open block. Shards before that one are complete. A journal that is damaged: 65.
//
// journal: "TAPERJNL", u64 bytes of what follows, u64 its XXH3; u64 bytes of a JSON object, the object, and
// per split the open block's bytes, the table of blocks and the document starts, in the object's sizes.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "data/corpus.h"
#include "data/prepare.h"

namespace taper {

using ByteCounts = std::array<int64_t, 256>;

struct SplitState {
  PrepareReport::Split report;
  ByteCounts counts{};
  int64_t tokens = 0;                       // in the shard being filled, the last of report.shards
  std::vector<char> open;                   // its block that is not full
  std::vector<uint64_t> blocks, documents;  // its tables so far
};

struct Journal {
  std::vector<std::pair<std::string, std::string>> options;  // those that decide what comes out
  bool by_hash = true;
  Place place;
  int64_t empty = 0, left_out = 0, replaced = 0, forced = 0;  // in lines
  uint64_t files_bytes = 0;                                   // of journal.files
  SplitState splits[2];                                       // train, validation
};

constexpr const char* journal_name = "journal";
constexpr const char* journal_files_name = "journal.files";

void write_journal(const Path& directory, const Journal& journal);
Journal read_journal(const Path& directory);

std::string file_record(const InputFile& file);  // one line
// The files that a journal says were read, against those of this run; sets their sums. Another file: 65.
void check_files(const Path& directory, const Journal& journal, std::vector<InputFile>& files);

}  // namespace taper
