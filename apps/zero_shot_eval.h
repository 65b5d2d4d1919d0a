// Zero-shot evaluation: a task's documents through a predictor, and the harness's metrics of the answers.
//
//   acc        the share of documents whose likeliest continuation is the right one; the first of equals
//   acc_norm   the same of log-likelihood / code points of the choice; an empty choice is never chosen
//   perplexity exp(-mean log-likelihood of the last word), with acc: all its tokens greedily right
//   word_perplexity, byte_perplexity, bits_per_byte, token_perplexity   of all text: one sum over all documents, no error
#pragma once
#include "apps/results.h"
#include "apps/score.h"
#include "data/tasks/zero_shot.h"

namespace taper {

struct ZeroShotOptions {
  ScoreOptions score = {};
  int64_t bootstrap = 100000;  // replicates for a perplexity's error; 0: the delta method, and the notes say so
};

// Whether `before` holds the results of these documents.
bool is_finished(const TaskResult& before, const TaskDocuments& documents);

TaskResult evaluate_zero_shot(Predictor& model, const Coder& coder, const ZeroShotTask& task, const TaskDocuments& documents,
                              const ZeroShotOptions& options);

}  // namespace taper
