#include "train/plan.h"

#include <numeric>

#include "data/tokenizers/sentencepiece.h"

namespace sluice {
namespace {

/// A global batch of full sequences, each one document: the most attention a batch can cost.
Batch full_batch(const RunSizes& sizes) {
  Batch batch;
  for (int64_t s = 0; s < sizes.sequences_per_step; ++s) {
    const size_t start = batch.tokens.size();
    const size_t end = start + static_cast<size_t>(sizes.sequence_length);
    batch.tokens.resize(end, 0);
    batch.targets.resize(end, 0);
    batch.positions.resize(end);
    std::iota(batch.positions.begin() + static_cast<int64_t>(start), batch.positions.end(), 0);
    batch.document_offsets.push_back(static_cast<int64_t>(end));
    batch.document_domain.push_back(0);
    batch.end_sequence(static_cast<uint64_t>(s));
  }
  return batch;
}

}  // namespace

double Plan::flops_per_token(Phase phase) const {
  const double flops =
      cost.at(phase, Direction::forward).flops + cost.at(phase, Direction::backward).flops;
  return flops / static_cast<double>(tokens);
}

double Plan::flops_per_token() const { return cost.useful_flops() / static_cast<double>(tokens); }

int64_t planned_vocab_size(const Recipe& recipe) {
  if (const auto* config =
          dynamic_cast<const SentencePieceConfig*>(recipe.data.tokenizer.config.get())) {
    return config->vocab_size;  // training fills it or fails
  }
  return load_tokenizer(recipe.data)->vocab_size();
}

Plan make_plan(const Recipe& recipe, int64_t vocab_size, int64_t train_tokens) {
  Plan plan;
  Pool pool(Pool::Mode::shapes_only);
  SingleRank communicator;
  const auto model = build_model(recipe, pool, vocab_size);
  const auto routing = build_routing(recipe, *model);
  const auto optimizer = build_optimizer(recipe, *model, pool);
  plan.sizes = derive_sizes(recipe, train_tokens);
  plan.parameters = count_parameters(recipe, *model);
  TrainingStep step({pool, *model, *routing, *optimizer, communicator},
                    step_options(recipe, plan.sizes));
  const Batch batch = full_batch(plan.sizes);
  plan.tokens = batch.num_tokens();
  // Of the run's two parts, the longer and dearer one: with all experts.
  const auto diversify = diversification(recipe);
  const int64_t first = diversify == nullptr ? 0 : diversify->steps;
  // The first step makes gradients and moments; the second is like all that follow.
  for (int64_t i = first; i < first + 2; ++i) {
    step.meter().reset();
    pool.reset_peak();
    (void)step.run(batch, plan.sizes.progress(i, i * plan.tokens));
  }
  plan.cost = step.meter();
  plan.peak = pool.peak();
  return plan;
}

}  // namespace sluice
