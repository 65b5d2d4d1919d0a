// byte_source: what was packed comes out again, however it lies in frames, and damage is named.
#include "data/byte_source.h"

#include <zstd.h>

#include <algorithm>

#include "tensor/random.h"
#include "tests/data/texts.h"
#include "tests/support/scratch.h"

using namespace taper;
using test::expect_failure;
using test::gzip;
using test::Scratch;

namespace {

std::string zstd(std::string_view text, int window_log = 0) {
  std::string packed(ZSTD_compressBound(text.size()) + 100, '\0');
  ZSTD_CCtx* c = ZSTD_createCCtx();
  if (window_log) ZSTD_CCtx_setParameter(c, ZSTD_c_windowLog, window_log);
  ZSTD_outBuffer out{packed.data(), packed.size(), 0};
  ZSTD_inBuffer in{text.data(), text.size(), 0};
  ZSTD_compressStream2(c, &out, &in, ZSTD_e_flush);  // so that the size is not known when the header is written
  ZSTD_compressStream2(c, &out, &in, ZSTD_e_end);
  ZSTD_freeCCtx(c);
  packed.resize(out.pos);
  return packed;
}

std::string text_of(size_t size) {
  const Random random(9, "text");
  std::string text;
  for (uint64_t i = 0; text.size() < size; ++i) text += std::to_string(random.below(i, 1'000'000)) + " ";
  text.resize(size);
  return text;
}

std::string read_all(const Path& path, size_t step) {
  ByteSource source(path);
  std::string all, piece(step, '\0');
  while (const size_t n = source.read(piece.data(), step)) all.append(piece, 0, n);
  CHECK(source.given() == all.size());
  CHECK(source.taken() == source.size());
  CHECK(source.sum() == checksum_file(path));
  return all;
}

}  // namespace

TEST_CASE("plain, zstd and gzip files, one frame or many, give their bytes for any size of reads") {
  const Scratch dir;
  const std::string text = text_of(700'000);
  const std::string a = text.substr(0, 300'001), b = text.substr(300'001);
  const std::string skippable("\x50\x2a\x4d\x18\x03\0\0\0abc", 11);
  write_file(dir / "plain", text);
  write_file(dir / "one.zst", zstd(text));
  write_file(dir / "many.zst", zstd(a) + skippable + zstd("") + zstd(b));
  write_file(dir / "one.gz", gzip(text));
  write_file(dir / "many.gz", gzip(a) + gzip("") + gzip(b));
  for (const char* name : {"plain", "one.zst", "many.zst", "one.gz", "many.gz"})
    for (const size_t step : {size_t(7'919), size_t(1) << 20}) {
      const bool same = read_all(dir / name, step) == text;
      CHECK_MESSAGE(same, name, " in steps of ", step);
    }
  write_file(dir / "empty", "");
  write_file(dir / "empty.zst", zstd(""));
  write_file(dir / "empty.gz", gzip(""));
  for (const char* name : {"empty", "empty.zst", "empty.gz"}) CHECK(read_all(dir / name, 10).empty());
}

TEST_CASE("data cut short anywhere, or damaged: the file, the byte and the frame") {
  const Scratch dir;
  const std::string first = text_of(1'000), second = text_of(200'000) + "\nthe second\nand the third line";
  const std::string in_line = std::to_string(1 + std::ranges::count(first + second, '\n'));
  for (const bool gz : {false, true}) {
    const std::string name = gz ? "x.gz" : "x.zst", good = gz ? gzip(first) + gzip(second) : zstd(first) + zstd(second);
    const size_t one = (gz ? gzip(first) : zstd(first)).size();
    for (size_t size = 1; size < good.size(); size += size < one + 30 ? 1 : 4'999) {
      if (size == one) continue;
      write_file(dir / name, good.substr(0, size));
      expect_failure([&] { read_all(dir / name, 65'536); }, Exit::bad_data,
                     (dir / name).string() + ": truncated: the compressed data stop at byte " + std::to_string(size) + ", inside frame " +
                         (size < one ? "1" : "2") + ", after ");
    }
    write_file(dir / name, good + "and more");
    expect_failure([&] { read_all(dir / name, 65'536); }, Exit::bad_data, ": damaged compression before byte ");
    expect_failure([&] { read_all(dir / name, 65'536); }, Exit::bad_data, "(frame 3, after 201030 bytes of text, in line " + in_line + ")");
    int64_t wrong = 0;
    for (size_t i = one; i < good.size(); i += 997) {  // a flipped bit of the second frame is found, or (zstd without a checksum) changes text
      std::string bad = good;
      bad[i] ^= 16;
      write_file(dir / name, bad);
      try {
        read_all(dir / name, 65'536);
        ++wrong;
      } catch (const Error& e) {
        CHECK(e.code == Exit::bad_data);
        CHECK(std::string(e.what()).starts_with((dir / name).string() + ": "));
      }
    }
    if (gz) CHECK(wrong == 0);
  }
  write_file(dir / "y.gz", zstd(first));
  expect_failure(
      [&] { read_all(dir / "y.gz", 100); }, Exit::bad_data,
      "y.gz: damaged compression before byte " + std::to_string(zstd(first).size()) + ": incorrect header check (frame 1, after 0 bytes of text, in line 1)");
}

TEST_CASE("a zstd window of more than 128 MiB is refused by its size") {
  const Scratch dir;
  const std::string text = text_of(5'000);
  write_file(dir / "fits.zst", zstd(text, 27));
  CHECK(read_all(dir / "fits.zst", 1'000) == text);
  write_file(dir / "large.zst", zstd("first") + zstd(text, 28));
  expect_failure([&] { read_all(dir / "large.zst", 1'000); }, Exit::bad_data,
                 "large.zst: frame 2 wants a window of 256 MiB; at most 128 MiB is held; compress it again with zstd --long=27, or without --long");
  write_file(dir / "larger.zst", zstd(text, 31));
  expect_failure([&] { read_all(dir / "larger.zst", 1'000); }, Exit::bad_data, "frame 1 wants a window of 2 GiB");
}

TEST_CASE("the name without its packing") {
  CHECK(without_packing("a/b.jsonl.zst") == Path("a/b.jsonl"));
  CHECK(without_packing("b.txt.gz") == Path("b.txt"));
  CHECK(without_packing("b.txt") == Path("b.txt"));
}
