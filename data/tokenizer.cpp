// Tokenizers: bytes.
#include "data/tokenizer.h"

#include "tensor/error.h"

namespace taper {
namespace {

class Bytes final : public Tokenizer {
 public:
  std::string identity() const override { return "bytes:v1"; }
  int64_t vocab() const override { return 257; }
  int32_t eod() const override { return 256; }
  void encode(std::string_view text, std::vector<int32_t>& append_to) const override {
    append_to.reserve(append_to.size() + text.size());
    for (const char c : text) append_to.push_back(uint8_t(c));
  }
  std::string decode(const std::vector<int32_t>& ids) const override {
    std::string text;
    for (const int32_t id : ids) {
      check(0 <= id && id < vocab(), "tokenizer bytes: ids must lie in [0,257); got {}", id);
      if (id != eod()) text += char(uint8_t(id));
    }
    return text;
  }
};

}  // namespace

std::unique_ptr<Tokenizer> open_tokenizer(std::string_view name) {
  if (name == "bytes" || name == "bytes:v1") return std::make_unique<Bytes>();
  fail(Exit::bad_config, "tokenizer: no '{}'; supported: bytes", name);
}

}  // namespace taper
