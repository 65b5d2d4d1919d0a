// Texts: compressed ones to read, and what shards hold as text.
#pragma once
#include <doctest/doctest.h>
#include <zlib.h>

#include <string>
#include <string_view>
#include <vector>

#include "data/shard.h"

namespace taper::test {

inline std::string gzip(std::string_view text) {
  std::string packed(compressBound(text.size()) + 100, '\0');
  z_stream s{};
  deflateInit2(&s, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  s.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  s.avail_in = uInt(text.size());
  s.next_out = reinterpret_cast<Bytef*>(packed.data());
  s.avail_out = uInt(packed.size());
  deflate(&s, Z_FINISH);
  packed.resize(packed.size() - s.avail_out);
  deflateEnd(&s);
  return packed;
}

// The documents of a split of bytes, as text.
inline std::vector<std::string> documents_of(const Path& directory, const std::string& split) {
  const TokenStream stream(directory, split, "bytes:v1");
  std::vector<int32_t> tokens(size_t(stream.tokens()));
  stream.read(0, tokens);
  std::vector<std::string> documents;
  for (const int32_t token : tokens) {
    if (token == 256) documents.emplace_back();
    else documents.at(documents.size() - 1) += char(uint8_t(token));
  }
  CHECK(int64_t(documents.size()) == int64_t(stream.documents(0, stream.tokens()).size()));
  return documents;
}

}  // namespace taper::test
