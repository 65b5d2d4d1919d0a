// Tokenizer: text to token ids and back. Its identity is written into every shard it made.
//
// A name opens one: "bytes" is the 256 bytes and, as id 256, the end of a document (EOD). A shard's
// identity ("bytes:v1") opens the tokenizer that made it. Another name: exit 78.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace taper {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  virtual std::string identity() const = 0;
  virtual int64_t vocab() const = 0;  // ids are 0..vocab-1
  virtual int32_t eod() const = 0;
  virtual void encode(std::string_view text, std::vector<int32_t>& append_to) const = 0;
  // EOD has no text of its own. An id outside the vocabulary is an internal error.
  virtual std::string decode(const std::vector<int32_t>& ids) const = 0;
};

std::unique_ptr<Tokenizer> open_tokenizer(std::string_view name);

}  // namespace taper
