// embedding: the rule.
#include "tensor/ops/embedding.h"

#include "autograd/ops.h"
#include "tensor/error.h"

namespace taper {

static const Op op{"embedding", {"table"}, {"y"}};

Var embedding(const Var& table, const Tensor& ids) {
  const Tensor& w = table.value;
  check(table && w.rank() == 2, "embedding: table must be [V,D]; got {}", table ? w.shape().text() : "nothing");
  check(ids && ids.dtype() == Dtype::i32, "embedding: ids must be i32; got {}", ids ? name(ids.dtype()) : "nothing");
  Shape shape = ids.shape();
  shape.push_back(w.size(1));
  const Tensor y(w.device(), shape, w.dtype());
  kernels::embedding_forward({.table = w, .ids = ids, .y = y});

  return record(op, {table}, y, [ids, shape = w.shape()](Flow& flow) {
    const Tensor& d_y = flow.from("y");
    const Tensor d_table(d_y.device(), shape, d_y.dtype());
    kernels::embedding_backward({.ids = ids, .d_y = d_y, .d_table = d_table});
    flow.to("table", d_table);
  });
}

}  // namespace taper
