// Shards: a token stream in files, checked whenever it is read.
//
// A directory of shards holds `train-00000.shard`, `train-00001.shard`, ..., `validation-00000.shard`.
// The shards of a split, one after the other, are one stream; a document may run on into the next.
//
// A file, little endian:
//     0  magic "TAPERSHD"               48  documents u64: document starts in this shard
//     8  version u32 = 1                56  blocks u64
//    12  bytes of a token u32: 2 or 4   64  tables u64: where the tables begin
//    16  vocab u32                      72  XXH3 of the tables
//    20  index u32 of this shard        80  tokenizer identity, 64 bytes, padded with zeros
//    24  last u32: 1 in the split's     144 XXH3 of bytes 0..143
//        last shard, else 0             152 blocks: zstd frames of block_tokens raw tokens each
//    28  zero u32                           (the last may be shorter), with no gaps
//    32  block_tokens u64               tables: per block {offset, size, XXH3 seeded with its number} u64;
//    40  tokens u64                         per document the index of its first token (EOD) u64. End of file.
//
// Errors: a missing file 66; anything else wrong 65, with the file and the place.
#pragma once
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "data/tokenizer.h"
#include "tensor/file.h"

namespace taper {

struct ShardInfo {
  std::string tokenizer;  // identity
  int64_t vocab = 0, tokens = 0, documents = 0;
  int64_t index = 0;
  bool last = false;
};

// How a tokenizer's shards hold tokens.
struct ShardFormat {
  explicit ShardFormat(const Tokenizer& tokenizer) : ShardFormat(tokenizer.identity(), tokenizer.vocab()) {}
  ShardFormat(std::string identity, int64_t vocab);
  std::string tokenizer;
  int64_t vocab = 0, width = 0, block_tokens = 0;  // width: bytes of a token
  void append(std::span<const int32_t> tokens, std::vector<char>& raw) const;  // as they lie in a block
};

struct PackedBlock {
  std::vector<char> bytes;
  uint64_t sum = 0;
};
PackedBlock pack_block(std::span<const char> raw, int64_t number);  // its number in the shard

// A shard's file while it is made, block by block. Until finish() it has no header, so that nobody takes it for one.
class ShardFile {
 public:
  ShardFile(const Path& path, const ShardFormat& format, int64_t index);
  ShardFile(const Path& path, const ShardFormat& format, int64_t index, std::vector<uint64_t> blocks);  // goes on behind these
  void add(const PackedBlock& block);
  void finish(int64_t tokens, const std::vector<uint64_t>& documents, bool last);
  void sync() { file_.sync(); }
  const std::vector<uint64_t>& blocks() const { return blocks_; }  // the table of those that were added

 private:
  GrowingFile file_;
  ShardFormat format_;
  int64_t index_;
  std::vector<uint64_t> blocks_;
};

// Streams tokens into a shard; memory: one block and the document starts.
class ShardWriter {
 public:
  ShardWriter(const Path& path, const Tokenizer& tokenizer, int64_t index) : format_(tokenizer), file_(path, format_, index) {}
  void begin_document() { documents_.push_back(uint64_t(tokens_)); }  // the next token is its EOD
  void append(std::span<const int32_t> tokens);
  int64_t tokens() const { return tokens_; }
  void finish(bool last);

 private:
  void flush();
  ShardFormat format_;
  ShardFile file_;
  int64_t tokens_ = 0;
  std::vector<char> block_;
  std::vector<uint64_t> documents_;
};

// Keeps the most recently used decoded blocks of any number of shards.
class BlockCache {
 public:
  explicit BlockCache(size_t blocks) : capacity_(blocks) {}
  using Key = std::pair<const void*, int64_t>;  // reader, block
  using Block = std::vector<int32_t>;
  const Block* find(const Key& key);
  const Block& insert(const Key& key, Block block);  // valid until the next insert

 private:
  using Entries = std::list<std::pair<Key, Block>>;
  size_t capacity_;
  Entries entries_;  // newest first
  std::map<Key, Entries::iterator> at_;
};

// One shard. Opening checks header and tables; a block is checked when it is read. Not thread safe.
class ShardReader {
 public:
  explicit ShardReader(const Path& path, std::shared_ptr<BlockCache> cache = std::make_shared<BlockCache>(4));
  const ShardInfo& info() const { return info_; }
  const std::vector<uint64_t>& documents() const { return documents_; }  // ascending token indices
  uint64_t content() const { return content_; }                          // a checksum of all it holds
  void read(int64_t begin, std::span<int32_t> into) const;

 private:
  const std::vector<int32_t>& block(int64_t i) const;
  FileReader file_;
  std::shared_ptr<BlockCache> cache_;
  ShardInfo info_;
  int64_t width_ = 0, block_tokens_ = 0;
  uint64_t content_ = 0;
  std::vector<uint64_t> blocks_, documents_;
};

// All shards of one split of a directory as one stream. A shard that is missing, or made by another
// tokenizer than its siblings (or than `tokenizer`, an identity, unless empty), is an error.
class TokenStream {
 public:
  TokenStream(const Path& directory, const std::string& split, const std::string& tokenizer = "");
  int64_t tokens() const { return begins_.back(); }
  int64_t vocab() const { return shards_[0]->info().vocab; }
  std::string tokenizer() const { return shards_[0]->info().tokenizer; }
  uint64_t content() const { return content_; }
  void read(int64_t begin, std::span<int32_t> into) const;
  std::vector<int64_t> documents(int64_t begin, int64_t end) const;  // the starts within [begin, end)

 private:
  std::vector<std::unique_ptr<ShardReader>> shards_;
  std::vector<int64_t> begins_{0};  // shard i holds the tokens [begins_[i], begins_[i+1])
  uint64_t content_ = 0;
};

std::string shard_name(const std::string& split, int64_t index);  // "train-00000.shard"

}  // namespace taper
