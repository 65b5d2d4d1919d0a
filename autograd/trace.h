// Trace: which edges carry gradient from a loss to a leaf, and the tape as a picture.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "autograd/tape.h"

namespace taper {

struct NamedEdge {
  int from, to;      // node ids on the tape
  std::string name;  // "layers.0.mixer/position_taper.alpha"
};

// Every edge on some path from `leaf` to `loss`. Two sweeps: linear in the graph, never in its paths.
std::vector<NamedEdge> slice(const Tape& tape, int loss, int leaf);

// The paths themselves, "leaf > op.input > op.input", from the leaf up while they stay inside
// `scope`. Paths to the loss double with each residual layer and are never listed; inside one
// module there is a handful.
std::vector<std::string> paths_within(const Tape& tape, std::string_view scope, int leaf);

// The edge labels of each path of paths_within, in the same order.
std::vector<std::vector<std::string>> path_edges_within(const Tape& tape, std::string_view scope, int leaf);

// The gradient of `leaf` that flows through the edge called `edge`, isolated: the edges to cut so that
// nothing else reaches the leaf. With this cut and with {edge} cut, the two gradients add up to the
// whole. Error: the edge is not on a path from leaf to loss.
std::vector<std::string> edges_beside(const Tape& tape, int loss, int leaf, std::string_view edge);

// The tape as Graphviz DOT or as JSON. depth > 0 folds nodes into scopes of that many parts
// ("layers.0" is two). The same tape gives the same text on each run.
std::string to_dot(const Tape& tape, int depth = 0);
std::string to_json(const Tape& tape);

}  // namespace taper
