// Corpus: what `taper prepare` reads, from front to back, in units that threads then encode on their own.
//
// One thread reads. It cuts lines into groups and long texts where the tokenizer certainly splits, so that
// the tokens are those of the whole document; memory stays bounded whatever the size of a file.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/documents.h"
#include "data/tokenizer.h"

namespace taper {

constexpr size_t word_bytes = size_t(1) << 20;  // a text with no place to cut for so long is cut there all the same

// Which part of a document the validation split gets: by its hash all or nothing, else its last part.
struct SplitRule {
  double validation = 0;  // the share
  bool by_hash = true;
  bool holds_out(uint64_t hash) const;
  uint64_t head(uint64_t hash, uint64_t size) const;  // [head, size) is validation
};

// A place between two documents, or between two pieces of a long one, and what came before it.
struct Place {
  int64_t file = 0;   // the one being read
  uint64_t at = 0;    // of it: bytes of text (ids of an import) before
  int64_t line = 1;   // the next one
  uint64_t sum = 0;   // lines: XXH3 of what came before in this file; a plain text: of all of it; ids: of the file's size and time
  uint64_t begin = 0; // ids: of the document that `at` is in
  int64_t files = 0, skipped_files = 0;  // read to their end; not text
  int64_t empty = 0, left_out = 0, replaced = 0;  // documents: without text; not UTF-8 and skipped; repaired
  int64_t forced = 0;                             // cuts where the tokenizer may not split
  bool operator==(const Place&) const = default;
};

// A run of text (or ids) of one document, for one split.
struct Part {
  bool validation = false, begin = false;  // begin: the split's share of the document begins here
  uint64_t size = 0;
};

struct Unit {
  enum class Kind { lines, text, ids } kind = Kind::text;
  int64_t file = 0, line = 1;  // line: the first one's number
  bool held_out = false;       // lines: all of them are validation
  std::string text;
  std::vector<int32_t> ids;
  std::vector<Part> parts;     // of text or ids, one after the other
  size_t weight() const { return text.size() + ids.size() * 4; }
  void clear();  // keeps the memory of an ordinary unit
};

class Corpus {
 public:
  virtual ~Corpus() = default;
  virtual bool next(Unit& unit) = 0;           // false: there is no more
  virtual const Place& place() const = 0;      // behind the last unit
  virtual void seek(const Place& place) = 0;   // before the first next(); what came before must be as it was, else 65
  virtual uint64_t done() const = 0;           // bytes of the files that were read
  virtual const std::vector<InputFile>& files() const = 0;
  // Instead of next(): the hash of each document that may go to either split, in order. Afterwards the corpus begins anew.
  virtual void survey(const std::function<bool(uint64_t hash)>& go_on) = 0;
};

struct TextOptions {
  std::string field = "text";
  InvalidUtf8 invalid_utf8 = InvalidUtf8::error;
  size_t unit_bytes = size_t(1) << 15;  // of text, about
};

// `rule` may be set until the first next(); `poll` is called now and then, and what it throws ends the work.
std::unique_ptr<Corpus> text_corpus(std::vector<InputFile> files, const TextOptions& options, const Tokenizer& tokenizer,
                                    const SplitRule& rule, const std::function<void()>& poll);

// How much of the rest of a document the next piece takes (of a rest of more than word_bytes, any longer
// front of it will do); `forced` grows where it had to cut a word.
size_t piece_of(const Tokenizer& tokenizer, std::string_view text, size_t unit_bytes, int64_t& forced);

// f(line) for each line of a group, without its newline.
template <class F>
void for_each_line(std::string_view group, F&& f) {
  while (!group.empty()) {
    const size_t newline = group.find('\n');
    f(group.substr(0, newline));
    group.remove_prefix(newline == group.npos ? group.size() : newline + 1);
  }
}

// The last place at or before `at` that is between two characters; not below `from`.
uint64_t between_characters(std::string_view text, uint64_t at, uint64_t from = 0);

}  // namespace taper
