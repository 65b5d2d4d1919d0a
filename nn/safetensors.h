// safetensors: the file format of weights, read strictly and written as the reference writer does.
//
//   u64 N, little-endian | N bytes of JSON | data
//   JSON: {"__metadata__": {string: string}, NAME: {"dtype", "shape", "data_offsets": [begin, end]}}
//   Offsets count from the start of the data and cover it without a hole or an overlap. Row-major.
//
// Differences from the reference reader, all on the strict side: a key twice is an error; sizes must
// fit in 63 bits and ranks in 6 dimensions.
#pragma once
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "nn/raw_tensor.h"
#include "tensor/file.h"

namespace taper {

struct SafetensorsInfo {
  std::string dtype;        // the format's word: "F32"
  Shape shape;
  uint64_t begin = 0, end = 0;  // bytes, from the start of the data
};

class SafetensorsFile {
 public:
  // Reads and checks the header, every rule, before anything is allocated from what it says.
  // Errors: 66 no such file; 65 malformed, naming the file and, where one is at fault, the tensor.
  explicit SafetensorsFile(const Path& path);

  std::vector<std::string> names() const;  // sorted
  bool contains(std::string_view name) const { return infos_.find(name) != infos_.end(); }
  const SafetensorsInfo& info(std::string_view name) const;  // unknown name: 65
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const Path& path() const { return file_.path(); }

  // F32 F64 BF16 I32 I64 as they are; F16 becomes f32, which holds each of its values exactly.
  // Any other dtype is refused by name (65).
  Tensor read(std::string_view name, Device& device) const;
  // The bytes as they are. The file must outlive what it returns.
  RawTensor raw(std::string_view name) const;

 private:
  void add(const std::string& name, const void* entry);
  FileReader file_;
  uint64_t data_ = 0;  // where the data begins
  std::map<std::string, SafetensorsInfo, std::less<>> infos_;
  std::map<std::string, std::string> metadata_;
};

// Durable and atomic; the bytes are a function of the arguments alone. Order in the file: widest
// dtype first, then by name. {"format": "pt"} is added to the metadata. Holds 4 MiB at a time.
void write_safetensors(const Path& path, const std::vector<std::pair<std::string, Tensor>>& tensors,
                       std::map<std::string, std::string> metadata = {});
void write_safetensors(const Path& path, const std::vector<RawTensor>& tensors, std::map<std::string, std::string> metadata = {});

}  // namespace taper
