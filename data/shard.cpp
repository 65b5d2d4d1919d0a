// Shards: writing, checked reading, and the stream of a split.
#include "data/shard.h"

#include <zstd.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "tensor/error.h"

namespace taper {
namespace {

static_assert(std::endian::native == std::endian::little, "shards are read and written as they lie in memory");

constexpr char magic[] = "TAPERSHD";
constexpr uint32_t version = 1;
constexpr size_t block_bytes = size_t(1) << 18;  // a random window costs the unpacking of a block
constexpr int compression_level = 3;
constexpr size_t cached_blocks = 32;  // at most 16 MiB

struct Header {
  char magic[8];
  uint32_t version, width, vocab, index, last, zero;
  uint64_t block_tokens, tokens, documents, blocks, tables, tables_sum;
  char identity[64];
  uint64_t sum;
};
static_assert(sizeof(Header) == 152);

uint64_t header_sum(const Header& h) { return checksum(&h, offsetof(Header, sum)); }

// The tables lie one after the other in the file; their sum is chained.
uint64_t tables_sum(const std::vector<uint64_t>& blocks, const std::vector<uint64_t>& documents) {
  const uint64_t first = checksum(blocks.data(), blocks.size() * sizeof(uint64_t));
  return checksum(documents.data(), documents.size() * sizeof(uint64_t), first);
}

// Tokens as they lie in a file, and back.
template <class U>
void narrow(std::span<const int32_t> tokens, char* raw) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    const U u = U(tokens[i]);
    std::memcpy(raw + i * sizeof u, &u, sizeof u);
  }
}
template <class U>
void widen(const char* raw, std::span<int32_t> tokens) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    U u;
    std::memcpy(&u, raw + i * sizeof u, sizeof u);
    tokens[i] = int32_t(u);
  }
}

// The first token outside the vocabulary; tokens.end() where there is none.
template <class Tokens>
auto outside(const Tokens& tokens, int64_t vocab) {
  return std::find_if(tokens.begin(), tokens.end(), [n = uint32_t(vocab)](int32_t t) { return uint32_t(t) >= n; });
}

}  // namespace

std::string shard_name(const std::string& split, int64_t index) { return fmt::format("{}-{:05}.shard", split, index); }

ShardFormat::ShardFormat(std::string identity, int64_t n)
    : tokenizer(std::move(identity)), vocab(n), width(n <= 65536 ? 2 : 4), block_tokens(int64_t(block_bytes) / width) {
  check(!tokenizer.empty() && tokenizer.size() <= sizeof Header::identity,
        "shard: a tokenizer's identity has 1 to 64 bytes; got '{}'", tokenizer);
}

void ShardFormat::append(std::span<const int32_t> tokens, std::vector<char>& raw) const {
  const auto bad = outside(tokens, vocab);
  check(bad == tokens.end(), "shard: tokens must lie in [0,{}); got {}", vocab, bad == tokens.end() ? 0 : *bad);
  const size_t had = raw.size();
  raw.resize(had + tokens.size() * size_t(width));
  width == 2 ? narrow<uint16_t>(tokens, raw.data() + had) : narrow<uint32_t>(tokens, raw.data() + had);
}

PackedBlock pack_block(std::span<const char> raw, int64_t number) {
  thread_local std::unique_ptr<ZSTD_CCtx, size_t (*)(ZSTD_CCtx*)> context{ZSTD_createCCtx(), ZSTD_freeCCtx};
  thread_local std::vector<char> room;
  room.resize(std::max(room.size(), ZSTD_compressBound(raw.size())));
  const size_t n = ZSTD_compressCCtx(context.get(), room.data(), room.size(), raw.data(), raw.size(), compression_level);
  check(!ZSTD_isError(n), "shard: compression failed: {}", ZSTD_getErrorName(n));
  return {std::vector<char>(room.begin(), room.begin() + int64_t(n)), checksum(room.data(), n, uint64_t(number))};
}

ShardFile::ShardFile(const Path& path, const ShardFormat& format, int64_t index) : file_(path), format_(format), index_(index) {
  const Header empty{};
  file_.append(&empty, sizeof empty);
}

ShardFile::ShardFile(const Path& path, const ShardFormat& format, int64_t index, std::vector<uint64_t> blocks)
    : file_(path, blocks.empty() ? sizeof(Header) : blocks[blocks.size() - 3] + blocks[blocks.size() - 2]), format_(format), index_(index),
      blocks_(std::move(blocks)) {}

void ShardFile::add(const PackedBlock& block) {
  blocks_.insert(blocks_.end(), {file_.size(), block.bytes.size(), block.sum});
  file_.append(block.bytes.data(), block.bytes.size());
}

void ShardFile::finish(int64_t tokens, const std::vector<uint64_t>& documents, bool last) {
  Header h{};
  std::memcpy(h.magic, magic, sizeof h.magic);
  h.version = version;
  h.width = uint32_t(format_.width);
  h.vocab = uint32_t(format_.vocab);
  h.index = uint32_t(index_);
  h.last = last;
  h.block_tokens = uint64_t(format_.block_tokens);
  h.tokens = uint64_t(tokens);
  h.documents = documents.size();
  h.blocks = blocks_.size() / 3;
  h.tables = file_.size();
  h.tables_sum = tables_sum(blocks_, documents);
  std::memcpy(h.identity, format_.tokenizer.data(), format_.tokenizer.size());
  h.sum = header_sum(h);
  file_.append(blocks_.data(), blocks_.size() * sizeof(uint64_t));
  file_.append(documents.data(), documents.size() * sizeof(uint64_t));
  file_.sync();  // the header only comes once all else is there
  file_.overwrite(0, &h, sizeof h);
  file_.sync();
}

void ShardWriter::append(std::span<const int32_t> tokens) {
  while (!tokens.empty()) {
    const int64_t room = format_.block_tokens - int64_t(block_.size()) / format_.width;
    const size_t n = std::min(tokens.size(), size_t(room));
    format_.append(tokens.first(n), block_);
    tokens_ += int64_t(n);
    tokens = tokens.subspan(n);
    if (int64_t(n) == room) flush();
  }
}

void ShardWriter::flush() {
  if (block_.empty()) return;
  file_.add(pack_block(block_, int64_t(file_.blocks().size() / 3)));
  block_.clear();
}

void ShardWriter::finish(bool last) {
  flush();
  file_.finish(tokens_, documents_, last);
}

const BlockCache::Block* BlockCache::find(const Key& key) {
  const auto found = at_.find(key);
  if (found == at_.end()) return nullptr;
  entries_.splice(entries_.begin(), entries_, found->second);
  return &found->second->second;
}

const BlockCache::Block& BlockCache::insert(const Key& key, Block block) {
  if (entries_.size() == capacity_) {
    at_.erase(entries_.back().first);
    entries_.pop_back();
  }
  entries_.emplace_front(key, std::move(block));
  at_[key] = entries_.begin();
  return entries_.front().second;
}

ShardReader::ShardReader(const Path& path, std::shared_ptr<BlockCache> cache)
    : file_(path), cache_(std::move(cache)) {
  const std::string name = path.string();
  auto good = [&](bool ok, const char* what) { check(ok, Exit::bad_data, "{}: not a good shard: {}", name, what); };
  Header h;
  good(file_.size() >= sizeof h, "shorter than a header; truncated?");
  file_.read(0, &h, sizeof h);
  good(std::memcmp(h.magic, magic, sizeof h.magic) == 0, "it does not begin with TAPERSHD");
  check(h.version == version, Exit::bad_data, "{}: shard version {}; this program reads version {}", name, h.version,
        version);
  good(header_sum(h) == h.sum, "checksum of the header (bytes 0 to 151) differs");
  // A matching checksum proves nothing about who wrote it: every size is checked before it is used.
  good(h.width == 2 || h.width == 4, "bytes of a token must be 2 or 4");
  good(1 <= h.vocab && h.vocab <= (h.width == 2 ? 0x10000u : 0x7fffffffu), "vocab does not fit its tokens");
  good(h.last <= 1 && h.zero == 0, "last must be 0 or 1, and the word behind it 0");
  good(1 <= h.block_tokens && h.block_tokens <= 64 * block_bytes, "block_tokens out of range");
  good(h.tokens < uint64_t(1) << 62 && h.blocks == (h.tokens + h.block_tokens - 1) / h.block_tokens,
       "blocks and tokens do not agree");
  good(h.documents <= h.tokens, "more documents than tokens");
  good(h.tables >= sizeof h && h.tables <= file_.size(), "the tables lie outside the file; truncated?");
  const uint64_t words = (file_.size() - h.tables) / 8;
  good((file_.size() - h.tables) % 8 == 0 && h.blocks <= words / 3 && h.documents == words - 3 * h.blocks,
       "the tables do not end where the file ends; truncated?");
  blocks_.resize(h.blocks * 3);
  documents_.resize(h.documents);
  file_.read(h.tables, blocks_.data(), blocks_.size() * 8);
  file_.read(h.tables + blocks_.size() * 8, documents_.data(), documents_.size() * 8);
  check(tables_sum(blocks_, documents_) == h.tables_sum, Exit::bad_data,
        "{}: not a good shard: checksum of the tables (from byte {}) differs", name, h.tables);
  uint64_t at = sizeof h;
  for (uint64_t i = 0; i < h.blocks; ++i) {
    const uint64_t offset = blocks_[3 * i], size = blocks_[3 * i + 1];
    good(offset == at && size <= h.tables - at && size <= ZSTD_compressBound(h.block_tokens * h.width),
         "the block table does not fit the file");
    at += size;
  }
  good(at == h.tables, "there is a gap behind the last block");
  for (size_t i = 0; i < documents_.size(); ++i)
    good(documents_[i] < h.tokens && (i == 0 || documents_[i - 1] < documents_[i]), "document starts out of order");
  width_ = h.width;
  block_tokens_ = int64_t(h.block_tokens);
  content_ = h.sum;
  const size_t length = strnlen(h.identity, sizeof h.identity);
  info_ = {std::string(h.identity, length), h.vocab, int64_t(h.tokens), int64_t(h.documents), h.index, h.last == 1};
}

const std::vector<int32_t>& ShardReader::block(int64_t i) const {
  const BlockCache::Key key{this, i};
  if (const auto* found = cache_->find(key)) return *found;
  const uint64_t* entry = &blocks_[size_t(3 * i)];
  const std::string name = file_.path().string();
  std::vector<char> packed(entry[1]);
  file_.read(entry[0], packed.data(), packed.size());
  check(checksum(packed.data(), packed.size(), uint64_t(i)) == entry[2], Exit::bad_data,
        "{}: checksum of block {} (bytes {} to {}) differs", name, i, entry[0], entry[0] + entry[1] - 1);
  const int64_t count = std::min(block_tokens_, info_.tokens - i * block_tokens_);
  std::vector<char> raw(size_t(count * width_));
  const size_t n = ZSTD_decompress(raw.data(), raw.size(), packed.data(), packed.size());
  check(!ZSTD_isError(n) && n == raw.size(), Exit::bad_data, "{}: block {} does not unpack to {} tokens", name, i,
        count);
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  width_ == 2 ? widen<uint16_t>(raw.data(), tokens) : widen<uint32_t>(raw.data(), tokens);
  const auto bad = outside(tokens, info_.vocab);
  check(bad == tokens.end(), Exit::bad_data, "{}: token {} at position {} is outside the vocabulary of {}", name,
        bad == tokens.end() ? 0 : uint32_t(*bad), i * block_tokens_ + (bad - tokens.begin()), info_.vocab);
  return cache_->insert(key, std::move(tokens));
}

void ShardReader::read(int64_t begin, std::span<int32_t> into) const {
  const int64_t end = begin + int64_t(into.size());
  check(0 <= begin && end <= info_.tokens, "{}: tokens [{},{}) asked of {}", file_.path().string(), begin, end,
        info_.tokens);
  for (int64_t at = begin; at < end;) {
    const int64_t i = at / block_tokens_, first = at - i * block_tokens_;
    const std::vector<int32_t>& tokens = block(i);
    const int64_t n = std::min(end - at, int64_t(tokens.size()) - first);
    std::copy_n(tokens.begin() + first, n, into.begin() + (at - begin));
    at += n;
  }
}

TokenStream::TokenStream(const Path& directory, const std::string& split, const std::string& tokenizer) {
  std::error_code error;
  check(std::filesystem::is_directory(directory, error), Exit::no_input,
        "{}: no such directory of shards; make it with `taper prepare`", directory.string());
  const auto cache = std::make_shared<BlockCache>(cached_blocks);
  for (bool last = false; !last;) {
    const int64_t index = int64_t(shards_.size());
    const Path path = directory / shard_name(split, index);
    check(std::filesystem::exists(path, error), Exit::no_input, "{}: missing; {}", path.string(),
          index == 0 ? "the directory has no " + split + " split; `taper prepare` makes it"
                     : "the " + split + " split goes on after shard " + std::to_string(index - 1));
    shards_.push_back(std::make_unique<ShardReader>(path, cache));
    const ShardInfo& info = shards_.back()->info();
    const std::string wanted = tokenizer.empty() ? shards_[0]->info().tokenizer : tokenizer;
    check(info.tokenizer == wanted && info.vocab == vocab(), Exit::bad_data,
          "{}: made by tokenizer '{}' with vocab {}; '{}' is wanted; run `taper prepare` again", path.string(),
          info.tokenizer, info.vocab, wanted);
    check(info.index == index, Exit::bad_data, "{}: holds shard {} of its split; was it renamed?", path.string(),
          info.index);
    last = info.last;
    begins_.push_back(begins_.back() + info.tokens);
    const uint64_t sum = shards_.back()->content();
    content_ = checksum(&sum, sizeof sum, content_);
  }
}

void TokenStream::read(int64_t begin, std::span<int32_t> into) const {
  const int64_t end = begin + int64_t(into.size());
  check(0 <= begin && end <= tokens(), "stream: tokens [{},{}) asked of {}", begin, end, tokens());
  size_t s = size_t(std::ranges::upper_bound(begins_, begin) - begins_.begin()) - 1;
  for (int64_t at = begin; at < end; ++s) {
    const int64_t n = std::min(end, begins_[s + 1]) - at;
    shards_[s]->read(at - begins_[s], into.subspan(size_t(at - begin), size_t(n)));
    at += n;
  }
}

std::vector<int64_t> TokenStream::documents(int64_t begin, int64_t end) const {
  std::vector<int64_t> starts;
  for (size_t s = size_t(std::ranges::upper_bound(begins_, begin) - begins_.begin()) - 1;
       s < shards_.size() && begins_[s] < end; ++s) {
    const auto& all = shards_[s]->documents();
    auto it = std::ranges::lower_bound(all, uint64_t(std::max<int64_t>(0, begin - begins_[s])));
    for (; it != all.end() && begins_[s] + int64_t(*it) < end; ++it) starts.push_back(begins_[s] + int64_t(*it));
  }
  return starts;
}

}  // namespace taper
