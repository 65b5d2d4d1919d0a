// Split shards: a shard ends when it is full, a block when it is; the last of both when there is no more.
#include "data/split_shards.h"

#include <algorithm>

namespace taper {

SplitShards::SplitShards(const Path& directory, bool validation, const ShardFormat& format, int64_t shard_tokens, SplitState state)
    : directory_(directory), validation_(validation), format_(format), shard_tokens_(shard_tokens), state_(std::move(state)) {
  if (state_.report.shards > 0) {
    const int64_t index = state_.report.shards - 1;
    file_ = std::make_unique<ShardFile>(path(index), format_, index, state_.blocks);
    numbered_ = int64_t(state_.blocks.size() / 3);
  }
}

void SplitShards::add(const EncodedUnit::Part& part, std::span<const char> raw, std::vector<ShardAction>& actions) {
  make_room(actions);
  if (part.begin) {
    state_.documents.push_back(uint64_t(state_.tokens));
    ++state_.report.documents;
  }
  state_.report.bytes += part.bytes;
  state_.report.tokens += part.tokens;
  while (!raw.empty()) {
    make_room(actions);
    const int64_t room = std::min(shard_tokens_ - state_.tokens, format_.block_tokens - int64_t(state_.open.size()) / format_.width);
    const size_t n = std::min(raw.size(), size_t(room * format_.width));
    if (state_.open.empty()) new_block();
    state_.open.insert(state_.open.end(), raw.begin(), raw.begin() + int64_t(n));
    state_.tokens += int64_t(n) / format_.width;
    raw = raw.subspan(n);
    if (int64_t(state_.open.size()) == format_.block_tokens * format_.width) flush(actions);
  }
}

void SplitShards::count(const ByteCounts& counts) {
  for (size_t c = 0; c < 256; ++c) state_.counts[c] += counts[c];
}

void SplitShards::finish(std::vector<ShardAction>& actions) {
  if (state_.report.shards > 0) close(true, actions);
}

void SplitShards::perform(const ShardAction& a) {
  switch (a.kind) {
    case ShardAction::Kind::open: file_ = std::make_unique<ShardFile>(path(a.number), format_, a.number); break;
    case ShardAction::Kind::block: file_->add(a.packed); break;
    case ShardAction::Kind::close: file_->finish(a.tokens, a.documents, a.last); file_.reset(); break;
  }
}

SplitState SplitShards::saved() {
  SplitState s = state_;
  s.blocks = file_ ? file_->blocks() : std::vector<uint64_t>();
  if (file_) file_->sync();
  return s;
}

void SplitShards::make_room(std::vector<ShardAction>& actions) {
  if (state_.report.shards > 0 && state_.tokens < shard_tokens_) return;
  if (state_.report.shards > 0) close(false, actions);
  numbered_ = state_.tokens = 0;
  actions.push_back({.kind = ShardAction::Kind::open, .validation = validation_, .number = state_.report.shards++});
}

void SplitShards::new_block() {
  if (!spare.empty()) {
    state_.open = std::move(spare.back());
    spare.pop_back();
  }
  state_.open.clear();
  state_.open.reserve(size_t(format_.block_tokens * format_.width));
}

void SplitShards::flush(std::vector<ShardAction>& actions) {
  if (state_.open.empty()) return;
  actions.push_back({.kind = ShardAction::Kind::block, .validation = validation_, .number = numbered_++, .raw = std::move(state_.open)});
  state_.open = {};
}

void SplitShards::close(bool last, std::vector<ShardAction>& actions) {
  flush(actions);
  actions.push_back({.kind = ShardAction::Kind::close, .validation = validation_, .tokens = state_.tokens, .documents = std::move(state_.documents),
                     .last = last});
  state_.documents = {};
}

}  // namespace taper
