// MQAR: multi-query associative recall (Arora et al., "Zoology", 2023), generated on the fly.
//
// An example of length T with K pairs over vocab n: K distinct keys from 1..n/2-1, K distinct values
// from n/2..n-1; tokens 0..2K-1 are k1 v1 k2 v2 ...; then K distinct gaps from 0..(T-2K)/2-1, drawn
// one after the other with weight (gap+1)^(a-1), a = 0.01; key i stands again at 2K + 2 gap_i, where
// the label is v_i. All other labels are ignored; all other tokens are uniform over 0..n-1.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "data/loader.h"

namespace taper {

struct MqarOptions : BatchOptions {
  int64_t vocab = 8192, sequence = 512;
  std::vector<int64_t> pairs{128};  // K of each segment; an epoch goes through the segments in order
  int64_t examples = 3000;          // in each segment
  uint64_t seed = 123;
  std::string split = "train";      // splits share no examples
  bool fresh = false;               // other examples in every epoch; false: the same, as the reference
};

// Errors (78): 4K > T, K > n/2 - 1.
class MqarSource : public Loader {
 public:
  MqarSource(const MqarOptions& options, Device& device);
};

}  // namespace taper
