// safetensors: each rule by a handmade file, and round trips to the byte.
#include "nn/safetensors.h"

#include <cmath>
#include <cstring>

#include "tests/nn/support.h"

using namespace taper;

namespace {

Device& cpu() { return open_device("cpu"); }

struct Case {
  const Scratch dir;
  const Path path = dir / "w.safetensors";
  SafetensorsFile open(const std::string& header, const std::string& data) const {
    put(path, file_of(header, data));
    return SafetensorsFile(path);
  }
  void refuses(const std::string& header, size_t data, const std::string& why) const {
    expect_error(Exit::bad_data, path.string() + ": " + why, [&] { open(header, std::string(data, 'x')); });
  }
};

// {"a":{...}} with one tensor.
std::string entry(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"a":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}";
}

}  // namespace

TEST_CASE("a plain file is read") {
  const Case c;
  const float values[] = {1, -2, 3.5f, 0, 1e-30f, 7};
  const SafetensorsFile f = c.open(R"({"__metadata__":{"format":"pt","d_model":"48"},)"
                                   R"("b":{"dtype":"F32","shape":[2,2],"data_offsets":[8,24]},)"
                                   R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
                                   std::string(reinterpret_cast<const char*>(values), 24));
  CHECK(f.names() == std::vector<std::string>{"a", "b"});
  CHECK(f.metadata() == std::map<std::string, std::string>{{"format", "pt"}, {"d_model", "48"}});
  CHECK(f.info("b").shape == Shape{2, 2});
  CHECK(f.info("b").dtype == "F32");
  CHECK(f.info("b").begin == 8);
  CHECK(to_host<float>(f.read("a", cpu())) == std::vector<float>{1, -2});
  CHECK(to_host<float>(f.read("b", cpu())) == std::vector<float>{3.5f, 0, 1e-30f, 7});
  expect_error(Exit::bad_data, "tensor \"c\" is missing", [&] { f.read("c", cpu()); });
}

TEST_CASE("what the format allows is accepted") {
  const Case c;
  CHECK(c.open("{}", "").names().empty());
  CHECK(c.open("{}   ", "").names().empty());
  CHECK(c.open(" \t\r\n{ } \n", "").names().empty());
  CHECK(c.open(R"({"__metadata__":null})", "").metadata().empty());
  CHECK(c.open(entry("F32", "[]", "[0,4]"), "xxxx").read("a", cpu()).shape() == Shape{});
  CHECK(c.open(entry("F32", "[3,0,2]", "[0,0]"), "").read("a", cpu()).shape() == Shape{3, 0, 2});
  CHECK(c.open(entry("F4", "[2]", "[0,1]"), "x").info("a").dtype == "F4");
  CHECK(
      c.open(
           R"({"a":{"dtype":"I32","shape":[0],"data_offsets":[4,4]},)"
               R"("b":{"dtype":"I32","shape":[1],"data_offsets":[0,4]},)"
           R"("c":{"dtype":"I32","shape":[0],"data_offsets":[0,0]}})",
           "xxxx")
          .names()
          .size() == 3);
}

TEST_CASE("every rule of the header has its refusal") {
  const Case c;
  expect_error(Exit::no_input, "none.safetensors: no such file", [&] { SafetensorsFile(c.dir / "none.safetensors"); });
  const auto raw = [&](const std::string& bytes, const std::string& why) {
    put(c.path, bytes);
    expect_error(Exit::bad_data, c.path.string() + ": " + why, [&] { SafetensorsFile f(c.path); });
  };
  raw("", "a safetensors header is wanted; the file has 0 bytes");
  raw(std::string("\x02\0\0\0\0\0\0", 7), "a safetensors header is wanted; the file has 7 bytes");
  raw(std::string("\x03\0\0\0\0\0\0\0{}", 10), "the header claims 3 bytes; 2 follow");
  raw(std::string("\xff\xff\xff\xff\xff\xff\xff\xff{}", 10),
      "the header must have at most 100000000 bytes; it claims 18446744073709551615");
  raw(std::string("\xf8\xff\xff\xff\xff\xff\xff\xff{}", 10), "the header must have at most 100000000 bytes");
  raw(std::string("\x01\xe1\xf5\x05\0\0\0\0{}", 10),
      "the header must have at most 100000000 bytes; it claims 100000001");

  c.refuses("", 0, "header: a JSON object is wanted");
  c.refuses("   ", 0, "header: a JSON object is wanted");
  c.refuses("[]", 0, "header: a JSON object is wanted");
  c.refuses("\xef\xbb\xbf{}", 0, "header: a JSON object is wanted");
  c.refuses("{", 0, "header: valid JSON is wanted; byte 2");
  c.refuses("{}x", 0, "header: valid JSON is wanted; byte 3");
  c.refuses("{}{}", 0, "header: valid JSON is wanted; byte 3");
  c.refuses("{/**/}", 0, "header: valid JSON is wanted; byte 2");
  c.refuses(std::string("{}\0x", 4), 0, "header: valid JSON is wanted; byte 3 is zero");
  c.refuses(std::string("{\0}", 3), 0, "header: valid JSON is wanted; byte 2 is zero");
  c.refuses("{\"\xff\":{}}", 0, "header: valid JSON is wanted; byte 3");
  c.refuses("{\"\xc0\xaf\":{}}", 0, "header: valid JSON is wanted; byte 3");
  c.refuses("{\"a\":" + std::string(100000, '['), 0, "header: JSON at most 64 levels deep is wanted; it is deeper");

  const std::string one = R"({"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  c.refuses(R"({"a":)" + one + R"(,"a":)" + one + "}", 1, "header: the JSON key \"a\" must appear once");
  c.refuses(R"({"a":)" + one + R"(,"\u0061":)" + one + "}", 1, "header: the JSON key \"a\" must appear once");
  c.refuses(R"({"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1,
            "header: the JSON key \"dtype\" must appear once");
  c.refuses(R"({"__metadata__":{"k":"1","k":"2"}})", 0, "header: the JSON key \"k\" must appear once");
  c.refuses(R"({"__metadata__":{},"__metadata__":{}})", 0, "header: the JSON key \"__metadata__\" must appear once");
  c.refuses(R"({"__metadata__":[]})", 0, "__metadata__ must be an object of strings");
  c.refuses(R"({"__metadata__":{"k":1}})", 0, "__metadata__ \"k\" must be a string; got number");
}

TEST_CASE("every rule of an entry has its refusal, which names the tensor") {
  const Case c;
  const std::string a = "tensor \"a\": ";
  c.refuses(R"({"a":1})", 0, a + "dtype, shape and data_offsets are wanted; dtype is missing");
  c.refuses(R"({"a":{"dtype":"F32","data_offsets":[0,0]}})", 0,
            a + "dtype, shape and data_offsets are wanted; shape is missing");
  c.refuses(R"({"a":{"dtype":"F32","shape":[0]}})", 0,
            a + "dtype, shape and data_offsets are wanted; data_offsets is missing");
  c.refuses(entry("F33", "[1]", "[0,4]"), 4, a + "unknown dtype \"F33\"");
  c.refuses(entry("f32", "[1]", "[0,4]"), 4, a + "unknown dtype \"f32\"");
  c.refuses(R"({"a":{"dtype":3,"shape":[1],"data_offsets":[0,4]}})", 4, a + "unknown dtype 3");
  for (const char* shape : {"4", "\"4\"", "null", "{}", "[1,1,1,1,1,1,1]"})
    c.refuses(entry("F32", shape, "[0,4]"), 4, a + "shape must be an array of at most 6 sizes; got " + shape);
  for (const char* size :
       {"-1", "1.0", "1e0", "\"1\"", "null", "[1]", "9223372036854775808", "99999999999999999999", "-0"})
    c.refuses(entry("F32", "[" + std::string(size) + "]", "[0,4]"), 4,
              a + "sizes must be integers from 0 to 2^63-1; got ");
  c.refuses(entry("F32", "[4294967296,4294967296]", "[0,4]"), 4,
            a + "the size of F32 [4294967296,4294967296] overflows 64 bits");
  c.refuses(entry("F32", "[4611686018427387904]", "[0,0]"), 0,
            a + "the size of F32 [4611686018427387904] overflows 64 bits");
  c.refuses(entry("F64", "[4294967296,4294967296,0]", "[0,0]"), 0, a + "the size of F64");
  c.refuses(entry("F4", "[3]", "[0,1]"), 1, a + "F4 [3] does not fill whole bytes");
  c.refuses(entry("F6_E2M3", "[2]", "[0,1]"), 1, a + "F6_E2M3 [2] does not fill whole bytes");
  for (const char* offsets : {"4", "[0]", "[0,4,4]", "[-0,4]", "[0,4.0]", "[0,\"4\"]", "[0,99999999999999999999]"})
    c.refuses(entry("F32", "[1]", offsets), 4, a + "data_offsets must be two integers >= 0; got ");
  c.refuses(entry("F32", "[1]", "[0,8]"), 8, a + "F32 [1] takes 4 bytes; data_offsets are [0,8]");
  c.refuses(entry("F32", "[1]", "[4,0]"), 4, a + "F32 [1] takes 4 bytes; data_offsets are [4,0]");
  c.refuses(entry("F32", "[1]", "[18446744073709551615,3]"), 4, a + "F32 [1] takes 4 bytes");
  c.refuses(entry("F32", "[1]", "[4,8]"), 8, a + "data must begin at byte 0, where the last one ends; got 4");
  const auto two = [&](const char* first, const char* second) {
    return R"({"b":{"dtype":"F32","shape":[1],"data_offsets":)" + std::string(second) +
           R"(},"a":{"dtype":"F32","shape":[1],"data_offsets":)" + first + "}}";
  };
  c.refuses(two("[0,4]", "[8,12]"), 12, "tensor \"b\": data must begin at byte 4, where the last one ends; got 8");
  c.refuses(two("[0,4]", "[2,6]"), 6, "tensor \"b\": data must begin at byte 4, where the last one ends; got 2");
  c.refuses(two("[0,4]", "[0,4]"), 4, "tensor \"");
  c.refuses(two("[0,4]", "[4,8]"), 9, "the tensors describe 8 bytes of data; the file holds 9");
  c.refuses(two("[0,4]", "[4,8]"), 7, "the tensors describe 8 bytes of data; the file holds 7");
  c.refuses("{}", 1, "the tensors describe 0 bytes of data; the file holds 1");
}

TEST_CASE("a hostile name or value stays one short line") {
  const Case c;
  c.refuses(R"({"a\nb\u001b[31m":1})", 0, "tensor \"a\\nb\\u001b[31m\": dtype, shape");
  try {
    c.open(R"({")" + std::string(1 << 16, 'x') + R"(":1})", "");
    FAIL("accepted");
  } catch (const Error& e) {
    CHECK(std::strlen(e.what()) < 400);
  }
}

TEST_CASE("F16 is widened exactly; dtypes without a place here are refused by name") {
  const Case c;
  const uint16_t halves[] = {0x0000, 0x8000, 0x3c00, 0xc000, 0x0001, 0x03ff,
                             0x0400, 0x7bff, 0x7c00, 0xfc00, 0x7e00, 0x3555};
  const std::vector<float> x = to_host<float>(
      c.open(entry("F16", "[12]", "[0,24]"), std::string(reinterpret_cast<const char*>(halves), 24)).read("a", cpu()));
  const float wanted[] = {0,        -0.0f, 1,        -2,        0x1p-24f, 1023 * 0x1p-24f,
                          0x1p-14f, 65504, INFINITY, -INFINITY, NAN,      1365 * 0x1p-12f};
  for (size_t i = 0; i < 12; ++i) {
    if (i == 10) CHECK(std::isnan(x[i]));
    else CHECK(std::memcmp(&x[i], &wanted[i], 4) == 0);
  }
  for (const char* dtype : {"BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"}) {
    const SafetensorsFile f = c.open(entry(dtype, "[4]", "[0,4]"), "xxxx");
    expect_error(Exit::bad_data,
                 std::string("tensor \"a\": dtype must be F32, F64, F16, BF16, I32 or I64; got ") + dtype,
                 [&] { f.read("a", cpu()); });
  }
}

TEST_CASE("every dtype comes back to the byte, and the file is the reference writer's") {
  const Scratch dir;
  std::vector<std::pair<std::string, Tensor>> tensors = {
      {"z", drawn({3, 5}, Dtype::f32, 1)},       {"d", drawn({2, 2, 2}, Dtype::f64, 2)},
      {"h", drawn({7}, Dtype::bf16, 3)},         {"scalar", drawn({}, Dtype::f32, 4)},
      {"empty", drawn({0, 3}, Dtype::f32, 5)},   {"i", from_host<int32_t>(cpu(), {3}, std::vector<int32_t>{1, -2, 3})},
      {"odd \"name\" \xc3\xa9", drawn({1}, Dtype::f32, 6)},
      {"l", from_host<int64_t>(cpu(), {2}, std::vector<int64_t>{INT64_MIN, 5})},
      {"big", drawn({1200, 1001}, Dtype::f32, 7)}};  // more than one piece
  write_safetensors(dir / "a", tensors, {{"note", "x"}});
  const SafetensorsFile f(dir / "a");
  CHECK(f.names().size() == tensors.size());
  CHECK(f.metadata() == std::map<std::string, std::string>{{"format", "pt"}, {"note", "x"}});
  for (const auto& [name, t] : tensors) {
    const Tensor back = f.read(name, cpu());
    CHECK(back.dtype() == t.dtype());
    CHECK(back.shape() == t.shape());
    CHECK(bytes_of(back) == bytes_of(t));
  }
  // The order of the arguments is not in the file.
  std::reverse(tensors.begin(), tensors.end());
  write_safetensors(dir / "b", tensors, {{"note", "x"}});
  const std::string bytes = read_file(dir / "a");
  CHECK(bytes == read_file(dir / "b"));
  uint64_t length;
  std::memcpy(&length, bytes.data(), 8);
  CHECK(length % 8 == 0);
  CHECK(
      bytes.substr(8, 139) ==
      R"({"__metadata__":{"format":"pt","note":"x"},"l":{"dtype":"I64","shape":[2],"data_offsets":[0,16]},)"
        R"("d":{"dtype":"F64","shape":[2,2,2],"data_o)");
  CHECK(f.info("h").end == bytes.size() - 8 - length);  // the narrowest last

  expect_error(Exit::internal, "tensor names must differ; 'x' is taken", [&] {
    write_safetensors(dir / "c", {{"x", drawn({1}, Dtype::f32, 1)}, {"x", drawn({1}, Dtype::f64, 1)}});
  });
  CHECK_FALSE(std::filesystem::exists(dir / "c"));
}
