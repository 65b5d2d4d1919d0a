// Strict JSON: a parser's events, with the keys of each open object remembered.
#include "tensor/json.h"

#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "tensor/error.h"

namespace taper {
namespace {

class Judge final : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit Judge(const std::string& who) : who_(who) {}
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(size_t) override { return open(); }
  bool start_array(size_t) override { return open(); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& key) override {
    check(keys_.back().insert(key).second, Exit::bad_data, "{}: the JSON key {} must appear once; it appears again",
          who_, nlohmann::json(key).dump(-1, ' ', true).substr(0, 80));
    return true;
  }
  bool parse_error(size_t at, const std::string&, const nlohmann::json::exception& e) override {
    const std::string_view what = e.what();  // "[json.exception.parse_error.101] parse error at ...: why"
    const size_t from = what.find("] ");
    fail(Exit::bad_data, "{}: valid JSON is wanted; byte {}: {}", who_, at,
         what.substr(from == what.npos ? 0 : from + 2, 160));
  }

 private:
  bool open() {
    keys_.emplace_back();
    check(keys_.size() <= 64, Exit::bad_data, "{}: JSON at most 64 levels deep is wanted; it is deeper", who_);
    return true;
  }
  bool close() {
    keys_.pop_back();
    return true;
  }
  const std::string& who_;
  std::vector<std::set<std::string>> keys_;
};

}  // namespace

void check_json_object(std::string_view text, const std::string& who) {
  const size_t first = text.find_first_not_of(" \t\r\n");
  check(first != text.npos && text[first] == '{', Exit::bad_data,
        "{}: a JSON object is wanted; it does not begin with {{", who);
  // The parser takes a zero byte for the end of the text and would pass over what follows it.
  const size_t zero = text.find('\0');
  check(zero == text.npos, Exit::bad_data, "{}: valid JSON is wanted; byte {} is zero", who, zero + 1);
  Judge judge(who);
  nlohmann::json::sax_parse(text.begin(), text.end(), &judge);
}

}  // namespace taper
