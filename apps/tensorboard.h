// EventFile: scalars for TensorBoard, one file for each time that training begins in a run's directory.
//
//   events.out.tfevents.<unix time>.<host>.<process>.0
//   record = u64 length, u32 masked_crc32c(length), bytes, u32 masked_crc32c(bytes)    little endian
//
// The bytes are Event messages of TensorBoard's protocol, written by hand: wall_time = 1 (double), step = 2 (int64),
// file_version = 3 (string), summary = 5 {value = 1 {tag = 1, simple_value = 2 (float)}}, session_log = 7 {status = 1, START = 1}.
// The first event states the version, the second is a START with the first step that this process trains: TensorBoard then
// drops what earlier files say of that step and later ones, which a killed process wrote after its last checkpoint.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tensor/file.h"

namespace taper {

uint32_t crc32c(std::string_view bytes);         // Castagnoli's polynomial, as in RFC 3720
uint32_t masked_crc32c(std::string_view bytes);  // rotated right by 15 bits, plus 0xa282ead8

using Scalars = std::vector<std::pair<std::string, double>>;  // tag -> value; NaN and infinities are written as such

class EventFile {
 public:
  // first_step: of this process. The file is made with the first scalars; its name sorts after those that are there, since
  // TensorBoard reads the files of a directory in the order of their names.
  EventFile(const Path& directory, int64_t first_step) : directory_(directory), first_step_(first_step) {}
  void add(int64_t step, const Scalars& scalars);  // one event; handed to the system whole. Errors: 73, 74
  const Path& path() const { return path_; }       // empty before the first event

 private:
  void begin();
  Path directory_, path_;
  int64_t first_step_;
};

}  // namespace taper
