// Segments: a batch cut along time, for back-propagation over one piece after the other with the state handed on.
#pragma once
#include <vector>

#include "tensor/packing.h"

namespace taper {

struct Segment {
  Tensor ids, labels;       // [B,T/n] i32; labels [n] where `at` is
  Packing packing;          // of this piece; positions come from the state
  Tensor keep;              // [B] i32: 0 where a document begins with this piece's first token and the state begins anew;
                            // absent: nowhere, in any batch without packing.start and in the first piece
  Tensor at = {};           // [n] i32: the positions that labels are for, where they are few; absent: all, as in every cut
};

// ids, labels [B,T] i32, T divisible by n; the segments are put on `to`. The cuts are made on the host: for a batch on a GPU it
// waits, for one on the CPU it does not.
std::vector<Segment> cut_into_segments(const Tensor& ids, const Tensor& labels, const Packing& packing, int64_t n, Device& to);

}  // namespace taper
