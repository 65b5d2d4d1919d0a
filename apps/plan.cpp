// Plan: one step and one evaluation batch on the plan device, and what the process takes besides.
#include "apps/plan.h"

#include <fmt/core.h>
#include <sys/resource.h>

#include <algorithm>
#include <map>

#include "apps/evaluate.h"
#include "apps/sources.h"
#include "apps/trainer.h"
#include "tensor/gemm.h"
#include "tensor/parallel.h"

namespace taper {
namespace {

// Batches of the right shape that hold nothing.
class EmptySource final : public BatchSource {
 public:
  // Of MQAR: `labels` in each row.
  EmptySource(const Config& c, int64_t batch, int64_t length, int64_t labels, Device& device)
      : config_(c), shape_{batch, length}, labels_(batch * labels), device_(device) {}
  Batch next() override {
    Batch b{Tensor(device_, shape_, Dtype::i32), Tensor(device_, shape_, Dtype::i32), {}, shape_.numel()};
    if (config_.data.task == "text" && config_.data.documents == "reset") b.packing.start = Tensor(device_, shape_, Dtype::i32);
    if (config_.data.task == "mqar") b.at = Tensor(device_, {labels_}, Dtype::i32), b.labels_at = Tensor(device_, {labels_}, Dtype::i32);
    return b;
  }
  Cursor cursor() const override { return {}; }
  void seek(const Cursor&) override {}
  int64_t samples_per_epoch() const override { return 1; }
  int64_t remaining() const override { return -1; }
  int64_t vocab() const override { return config_.model.vocab; }
  std::string identity() const override { return "none"; }

 private:
  const Config& config_;
  Shape shape_;
  int64_t labels_;
  Device& device_;
};

// Multiply-adds count as 2; backward is twice the forward pass.
double flops_per_token(const LanguageModel& model, int64_t matrix_elements) {
  double forward = 2.0 * double(matrix_elements);
  for (const Block& block : model.blocks) forward += block.mixer->recurrence_flops();
  return 3 * forward;
}

}  // namespace

int64_t peak_resident_bytes() {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return int64_t(usage.ru_maxrss) * 1024;
}

int64_t Plan::resident() const { return host + std::max(step_peak, eval_peak); }
// Not in the plan: what a kernel takes while it runs (a few tensors like its own), cuBLASLt's workspace, the pool's rounding.
int64_t Plan::on_gpu() const {
  const int64_t tensors = std::max(step_peak, eval_peak);
  return tensors + tensors / 16 + 2 * (largest.empty() ? 0 : largest[0].second) + (int64_t(32) << 20);
}

std::string advice_to_fit(const Config& config, size_t bytes) {
  const auto size = [](int64_t n) {
    return n >= 1 << 30 ? fmt::format("{:.1f} GiB", double(n) / double(1 << 30)) : fmt::format("{:.1f} MiB", double(n) / double(1 << 20));
  };
  const Plan given = plan_run(config);
  std::string text = "; the largest tensors of a step: ";
  for (const auto& [name, n] : given.largest) text += fmt::format("{}{} {}", text.ends_with(": ") ? "" : ", ", name, size(n));
  Config less = config;
  int64_t predicted = 0;
  for (int64_t batch = config.train.batch; batch >= 1; --batch) {
    if (config.train.batch % batch != 0) continue;  // only these keep a step's tokens
    less.train.batch = batch;
    less.train.accumulate = config.train.accumulate * config.train.batch / batch;
    predicted = plan_run(less).on_gpu();
    if (predicted > int64_t(bytes) || batch == config.train.batch) continue;  // what was given did not fit, whatever is predicted
    return text + fmt::format("; a batch that fits: --set train.batch={} --set train.accumulate={} ({} predicted)", batch,
                              less.train.accumulate, size(predicted));
  }
  return text + fmt::format("; not even train.batch=1 fits ({} predicted): use a smaller model, data.sequence or model.vocab", size(predicted));
}

Plan plan_run(const Config& config) {
  Device& device = open_device("plan");
  Plan plan;
  device.reset_peak();
  const size_t before = device.bytes_live();
  const auto peak = [&] { return int64_t(device.bytes_peak() - before); };
  Trainer trainer(config, device, std::make_unique<EmptySource>(config, config.train.batch, config.data.sequence, std::ranges::max(config.mqar.pairs), device));
  int64_t matrices = 0, packed = 0;
  const int64_t threads = thread_count();
  const int64_t tokens = config.train.batch * config.data.sequence;
  for (const Parameter* p : trainer.model.parameters()) {
    plan.parameters += p->value.numel();
    if (p->trainable) plan.trainable += p->value.numel();
    plan.weights += int64_t(p->value.bytes());
    const bool looked_up = p->name == "embedding.weight" && !trainer.model.config.tied_head;  // and not multiplied by
    if (p->value.rank() == 2 && !looked_up) {
      const int64_t out = p->value.size(0), in = p->value.size(1);
      matrices += out * in;
      packed = std::max({packed, gemm_packed_bytes(tokens, out, in, threads), gemm_packed_bytes(tokens, in, out, threads),
                         gemm_packed_bytes(out, in, tokens, threads)});
    }
    plan.table += fmt::format("{:<40} {:<18} {:>12}{}{}\n", p->name, p->value.shape().text(), p->value.numel(),
                              p->trainable ? "" : "  frozen", p->decays() ? "  decays" : "");
  }
  plan.moments = int64_t(device.bytes_live() - before) - plan.weights;
  plan.flops_per_token = flops_per_token(trainer.model, matrices);
  std::map<const void*, std::pair<std::string, int64_t>> values;  // by address: views of a tensor are that tensor
  for (const Parameter* p : trainer.model.parameters()) values.emplace(p->value.data<void>(), std::pair(p->name, int64_t(p->value.bytes())));
  trainer.step([&](const std::string& name, const Tensor& t) { values.emplace(t.data<void>(), std::pair(name, int64_t(t.bytes()))); });
  trainer.step();  // the second finds what the first leaves behind; with train.graph a third is recorded
  if (config.train.graph) trainer.step();
  plan.step_peak = peak();
  for (const auto& [at, value] : values) plan.largest.push_back(value);
  std::ranges::stable_sort(plan.largest, std::greater{}, &std::pair<std::string, int64_t>::second);
  plan.largest.resize(std::min<size_t>(3, plan.largest.size()));
  trainer.rest();

  const bool mqar = config.data.task == "mqar";
  const std::vector<int64_t> lengths = mqar ? config.mqar.eval_sequence : std::vector{config.data.sequence};
  device.reset_peak();
  for (size_t i = 0; i < lengths.size(); ++i) {
    EmptySource batches(config, batch_for_length(config, lengths[i]), lengths[i], mqar ? config.mqar.eval_pairs[i] : 0, device);
    judge(trainer.model, batches.next(), mqar);
  }
  plan.eval_peak = peak();
  // This process has done all but the work. To come: a few decoded blocks and batches of the loader; the stack and heap of each
  // thread with what it packs for the small products of a scan, measured: some 100 KiB; what is packed for the largest product.
  const int64_t batch_bytes = 3 * 4 * tokens;
  plan.host = peak_resident_bytes() + (3 + config.train.accumulate) * batch_bytes + threads * (128 << 10) + packed;
  return plan;
}

}  // namespace taper
