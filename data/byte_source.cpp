// Byte source: plain files, zstd, gzip.
#include "data/byte_source.h"

#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include <algorithm>

#include "tensor/error.h"

namespace taper {

namespace {

constexpr size_t piece_bytes = size_t(1) << 18;
constexpr int window_log_max = 27;  // 128 MiB: what `zstd --long` writes and `zstd -d` reads unasked

// "2 GiB" of a window's size.
std::string size_text(uint64_t bytes) {
  const bool large = bytes >= uint64_t(1) << 30;
  return fmt::format("{:.4g} {}", double(bytes) / double(uint64_t(1) << (large ? 30 : 20)), large ? "GiB" : "MiB");
}

// The window that a frame asks for in its header; 0: not to be seen in these bytes.
uint64_t window_of(std::string_view frame) {
  if (frame.size() < 6) return 0;
  const auto byte = [&](size_t i) { return uint64_t(uint8_t(frame[i])); };
  const uint64_t descriptor = byte(4);
  if (!(descriptor & 0x20)) {
    const uint64_t base = uint64_t(1) << (10 + (byte(5) >> 3));
    return base + base / 8 * (byte(5) & 7);
  }
  constexpr size_t dictionary_bytes[] = {0, 1, 2, 4}, size_bytes[] = {1, 2, 4, 8};  // a single segment: window = content
  const size_t at = 5 + dictionary_bytes[descriptor & 3], n = size_bytes[descriptor >> 6];
  if (frame.size() < at + n) return 0;
  uint64_t size = n == 2 ? 256 : 0;
  for (size_t i = 0; i < n; ++i) size += byte(at + i) << (8 * i);
  return size;
}

}  // namespace

struct ZstdUnpacker final : ByteSource::Unpacker {
  ZstdUnpacker() { ZSTD_DCtx_setParameter(stream.get(), ZSTD_d_windowLogMax, window_log_max); }

  size_t unpack(ByteSource& source, char* into, size_t bytes) override {
    ZSTD_outBuffer out{into, bytes, 0};
    while (out.pos == 0) {
      if (in.pos == in.size) {
        if (!source.refill()) {
          if (inside) source.truncated(frame);
          return 0;
        }
        in = {source.packed_.data(), source.packed_.size(), 0};
      }
      if (!inside) ++frame, begin = std::string_view(source.packed_.data() + in.pos, in.size - in.pos);
      const size_t hint = ZSTD_decompressStream(stream.get(), &out, &in);
      if (ZSTD_getErrorCode(hint) == ZSTD_error_frameParameter_windowTooLarge) {
        const uint64_t window = window_of(begin);
        fail(Exit::bad_data, "{}: frame {} wants a window of {}; at most 128 MiB is held; compress it again with zstd --long=27, or without --long",
             source.path().string(), frame, window ? size_text(window) : "more");
      }
      if (ZSTD_isError(hint)) source.damaged(frame, ZSTD_getErrorName(hint));
      inside = hint != 0;  // after 0 another frame may follow
      begin = {};
    }
    return out.pos;
  }

  std::unique_ptr<ZSTD_DStream, size_t (*)(ZSTD_DStream*)> stream{ZSTD_createDStream(), ZSTD_freeDStream};
  ZSTD_inBuffer in{nullptr, 0, 0};
  std::string_view begin;  // of the frame, while it is at hand
  bool inside = false;
  int64_t frame = 0;  // the one being read, from 1
};

struct GzipUnpacker final : ByteSource::Unpacker {
  GzipUnpacker() { check(inflateInit2(&stream, 15 + 16) == Z_OK, "gzip: cannot start zlib"); }  // 16: gzip's header and trailer
  ~GzipUnpacker() override { inflateEnd(&stream); }

  size_t unpack(ByteSource& source, char* into, size_t bytes) override {
    stream.next_out = reinterpret_cast<Bytef*>(into);
    stream.avail_out = uInt(bytes);
    while (stream.avail_out == uInt(bytes)) {
      if (stream.avail_in == 0) {
        if (!source.refill()) {
          if (inside) source.truncated(member);
          return 0;
        }
        stream.next_in = reinterpret_cast<Bytef*>(source.packed_.data());
        stream.avail_in = uInt(source.packed_.size());
      }
      if (!inside) ++member, inside = true;
      const int result = inflate(&stream, Z_NO_FLUSH);
      if (result == Z_STREAM_END) {
        inside = false;  // another member may follow
        inflateReset(&stream);
      } else if (result != Z_OK && result != Z_BUF_ERROR) {
        source.damaged(member, stream.msg ? stream.msg : "not gzip");
      }
    }
    return bytes - stream.avail_out;
  }

  z_stream stream{};
  bool inside = false;
  int64_t member = 0;
};

ByteSource::ByteSource(const Path& path) : file_(path) {
  if (path.extension() == ".zst") unpacker_ = std::make_unique<ZstdUnpacker>();
  if (path.extension() == ".gz") unpacker_ = std::make_unique<GzipUnpacker>();
}

ByteSource::~ByteSource() = default;

size_t ByteSource::read(char* into, size_t bytes) {
  size_t done = 0;
  while (done < bytes) {
    const size_t wanted = std::min(bytes - done, size_t(1) << 30);
    const size_t n = unpacker_ ? unpacker_->unpack(*this, into + done, wanted) : take(into + done, wanted);
    if (n == 0) break;
    if (unpacker_) newlines_ += uint64_t(std::count(into + done, into + done + n, '\n'));
    done += n;
    given_ += n;
  }
  return done;
}

size_t ByteSource::take(char* into, size_t bytes) {
  const size_t n = size_t(std::min<uint64_t>(bytes, file_.size() - at_));
  file_.read(at_, into, n);
  sum_.add(into, n);
  at_ += n;
  return n;
}

bool ByteSource::refill() {
  packed_.resize(piece_bytes);
  packed_.resize(take(packed_.data(), packed_.size()));
  return !packed_.empty();
}

void ByteSource::truncated(int64_t frame) const {
  fail(Exit::bad_data, "{}: truncated: the compressed data stop at byte {}, inside frame {}, after {} bytes of text, in line {}",
       path().string(), at_, frame, given_, newlines_ + 1);
}

void ByteSource::damaged(int64_t frame, std::string_view why) const {
  fail(Exit::bad_data, "{}: damaged compression before byte {}: {} (frame {}, after {} bytes of text, in line {})", path().string(), at_, why,
       frame, given_, newlines_ + 1);
}

Path without_packing(const Path& path) {
  return path.extension() == ".zst" || path.extension() == ".gz" ? path.parent_path() / path.stem() : path;
}

}  // namespace taper
