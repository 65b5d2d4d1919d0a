// Split shards: one split's tokens laid into blocks and shards, and the file being written.
//
// What is to happen to the files is a list of actions, so that laying, compressing and writing can each have a thread of their own.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "data/encode_units.h"
#include "data/journal.h"
#include "data/shard.h"

namespace taper {

constexpr const char* split_names[2] = {"train", "validation"};

// What happens to a split's files, in order.
struct ShardAction {
  enum class Kind { open, block, close } kind = Kind::block;
  bool validation = false;
  int64_t number = 0;      // of the shard; of the block in it
  std::vector<char> raw = {};  // the block, until it is packed
  PackedBlock packed = {};
  int64_t tokens = 0;      // close
  std::vector<uint64_t> documents = {};
  bool last = false;
};

class SplitShards {
 public:
  SplitShards(const Path& directory, bool validation, const ShardFormat& format, int64_t shard_tokens, SplitState state);

  // Lays a part, or what is left, and says what follows for the files.
  void add(const EncodedUnit::Part& part, std::span<const char> raw, std::vector<ShardAction>& actions);
  void count(const ByteCounts& counts);
  void finish(std::vector<ShardAction>& actions);
  const SplitState& state() const { return state_; }

  std::vector<std::vector<char>> spare;  // blocks' memory, to be used again

  void perform(const ShardAction& action);  // in their order; may run in another thread than the above
  SplitState saved();                  // when every action was performed: as a later run needs it, and on the disk

 private:
  Path path(int64_t index) const { return directory_ / shard_name(split_names[validation_], index); }
  void make_room(std::vector<ShardAction>& actions);
  void new_block();
  void flush(std::vector<ShardAction>& actions);
  void close(bool last, std::vector<ShardAction>& actions);

  Path directory_;
  bool validation_;
  const ShardFormat& format_;
  int64_t shard_tokens_;
  SplitState state_;
  int64_t numbered_ = 0;  // blocks of the shard so far
  std::unique_ptr<ShardFile> file_;
};

}  // namespace taper
