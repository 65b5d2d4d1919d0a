// Records: the lines.
#include "apps/records.h"

#include <algorithm>
#include <cmath>
#include <ctime>

#include "tensor/error.h"

namespace taper {

Records::Records(Run& run, bool tensorboard, int64_t tokens_per_step, int64_t done) : run_(run), tokens_per_step_(tokens_per_step) {
  if (tensorboard) events_.emplace(run.dir(), done + 1);
}

void Records::event(int64_t step, const Scalars& scalars) {
  if (events_) events_->add(step, scalars);
}

void Records::step(const StepNumbers& now, const Progress& progress, uint64_t resident_bytes) {
  run_.metrics(fmt::format("{{\"step\":{},\"tokens\":{},\"loss\":{},\"norm\":{},\"lr\":{}}}", now.step, now.step * tokens_per_step_,
                           json_number(now.loss), json_number(now.norm), json_number(now.lr)));
  run_.timings(fmt::format("{{\"step\":{},\"unix_time\":{},\"seconds\":{:.3f},\"tokens_per_second\":{:.1f},\"resident_bytes\":{}}}", now.step,
                           std::time(nullptr), progress.seconds(), progress.tokens_per_second(), resident_bytes));
  Scalars scalars{{"train/loss", now.loss}, {"train/norm", now.norm}, {"train/lr", now.lr}};
  if (progress.tokens_per_second() > 0) scalars.emplace_back("speed/tokens_per_second", progress.tokens_per_second());
  event(now.step, scalars);
}

void Records::evaluation(int64_t step, const Evaluation& e, int64_t length) {
  std::string buckets;
  for (const PositionBucket& b : e.buckets)
    if (b.tokens)
      buckets += fmt::format("{}{{\"begin\":{},\"end\":{},\"tokens\":{},\"loss\":{}}}", buckets.empty() ? "" : ",", b.begin,
                             std::min(b.end, length + 1), b.tokens, json_number(b.nll / double(b.tokens)));
  run_.metrics(fmt::format("{{\"step\":{},\"eval\":{{\"tokens\":{},\"loss\":{},\"bits_per_byte\":{},\"by_position\":[{}]}}}}", step, e.tokens,
                           json_number(e.loss()), json_number(e.bits_per_byte()), buckets));
  event(step, {{"eval/loss", e.loss()}, {"eval/bits_per_byte", e.bits_per_byte()}});
}

void Records::evaluation(int64_t step, const std::vector<MqarEvaluation>& all) {
  std::string json;
  Scalars scalars;
  for (const auto& [length, pairs, e] : all) {
    json += fmt::format("{}{{\"length\":{},\"pairs\":{},\"loss\":{},\"accuracy\":{}}}", json.empty() ? "" : ",", length, pairs,
                        json_number(e.loss()), json_number(e.accuracy));
    scalars.emplace_back(fmt::format("eval/loss_{}_{}", length, pairs), e.loss());
    scalars.emplace_back(fmt::format("eval/accuracy_{}_{}", length, pairs), e.accuracy);
  }
  run_.metrics(fmt::format("{{\"step\":{},\"eval\":[{}]}}", step, json));
  event(step, scalars);
}

void Records::spectra(int64_t step, const LanguageModel& model) {
  std::string layers;
  for (const Block& block : model.blocks) {
    const std::vector<HeadSpectrum> heads = block.mixer->spectrum();
    const auto list = [&](double HeadSpectrum::*what) {
      std::string numbers;
      for (const HeadSpectrum& h : heads) {
        numbers += numbers.empty() ? "" : ",";
        numbers += std::isfinite(h.*what) ? fmt::format("{:.6g}", h.*what) : "null";
      }
      return numbers;
    };
    layers += fmt::format("{}{{\"rate\":[{}],\"time_constant\":[{}],\"alpha\":[{}]}}", layers.empty() ? "" : ",", list(&HeadSpectrum::rate),
                          list(&HeadSpectrum::time_constant), list(&HeadSpectrum::alpha));
  }
  run_.spectra(fmt::format("{{\"step\":{},\"tokens\":{},\"layers\":[{}]}}", step, step * tokens_per_step_, layers));
}

}  // namespace taper
