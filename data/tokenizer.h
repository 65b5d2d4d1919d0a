// Tokenizer: text to token ids and back. Its identity is written into every shard it made.
//
// A name opens one:
//   bytes   the 256 bytes and, as id 256, the end of a document (EOD); identity "bytes:v1"
//   a path  of a tokenizer.json (data/tokenizer_json.h); identity "json:" and the file's XXH3-128 in hex
//   a path  of RWKV's "world" vocabulary (data/tokenizer_world.h); identity "rwkv:" and the same
//   ids:V:E  of a tokenizer that is not known (imported shards) V ids, of which E is EOD; it knows no text
// A directory stands for the tokenizer file in it. What a file tokenizer made, shards or a run, keeps
// the file beside it: open_tokenizer_of finds it there.
//
// Errors: no such name 78, no such file 66, a file that is damaged or asks for what is not supported 65.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/file.h"

namespace taper {

struct EncodeOptions {
  // The spelling of a special token ("<|endoftext|>") in the text becomes that token; false: it is
  // text like any other. Added tokens that are not special are found either way.
  bool special = true;
};

struct TokenizerFile {
  std::string name, contents;  // tokenizer.json or vocab.txt; both empty: there is no file
};

struct Frame {
  std::vector<int32_t> before, after;  // special tokens that the file's template puts around a text
};

// Every function is const and safe to call from several threads at once.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  virtual std::string identity() const = 0;
  virtual int64_t vocab() const = 0;  // ids are 0..vocab-1
  virtual int32_t eod() const = 0;
  virtual int32_t bos() const { return -1; }                   // -1: it has none
  virtual bool special(int32_t id) const { return id == eod(); }  // stands for no text, but for a spelling of its own
  virtual const Frame& frame() const;                          // empty, unless the file has a template
  virtual const TokenizerFile& file() const;

  // Any bytes; those that are no UTF-8 are kept as they are (65 where the file has no token for such a byte).
  virtual void encode(std::string_view text, std::vector<int32_t>& append_to, const EncodeOptions& options = {}) const = 0;

  // The bytes that an id stands for in decoded text; of a special token its spelling (of bytes' and
  // RWKV's EOD: none). An id outside the vocabulary is an internal error.
  virtual std::string_view bytes_of(int32_t id) const = 0;
  std::string decode(const std::vector<int32_t>& ids) const;

  // The largest position at which the text may be cut: encode(its front) and encode(its rest) give the
  // ids of the whole, whatever text follows. 0: none is known. Found from the text's end.
  virtual size_t cut(std::string_view text) const = 0;
};

std::unique_ptr<Tokenizer> open_tokenizer(std::string_view name);

// The tokenizer with this identity, whose file (unless it is bytes) lies in the directory. Missing there
// 66, another one 65.
std::unique_ptr<Tokenizer> open_tokenizer_of(const Path& directory, std::string_view identity);
bool has_tokenizer_of(const Path& directory, std::string_view identity);  // the file is there, whatever it holds; true for bytes

// Writes the tokenizer's file, if it has one, into a directory.
void store_tokenizer(const Tokenizer& tokenizer, const Path& directory);

}  // namespace taper
