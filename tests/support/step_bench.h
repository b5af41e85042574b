#pragma once
// A training step apart from data and run: batches of made-up tokens, and all that a step works on.

#include <string_view>
#include <vector>

#include "autograd/support/error.h"
#include "tests/support/tiny_run.h"
#include "train/build.h"
#include "train/step.h"

namespace sluice::testing {

/// A batch of sequences, each a list of document lengths; the last token of a document has no loss.
[[nodiscard]] inline Batch make_batch(const std::vector<std::vector<int64_t>>& sequences) {
  Batch batch;
  const RandomKey key{.seed = 3};
  for (size_t s = 0; s < sequences.size(); ++s) {
    for (const int64_t length : sequences[s]) {
      for (int64_t i = 0; i < length; ++i) {
        const auto n = static_cast<uint64_t>(batch.num_tokens());
        batch.tokens.push_back(static_cast<int32_t>(uniform_below(key, 0, n, 50)));
        batch.targets.push_back(i + 1 == length
                                    ? kIgnoredTarget
                                    : static_cast<int32_t>(uniform_below(key, 0, n + 1, 50)));
        batch.positions.push_back(static_cast<int32_t>(i));
      }
      batch.document_offsets.push_back(batch.num_tokens());
      batch.document_domain.push_back(0);
    }
    batch.end_sequence(s);
  }
  batch.check();
  return batch;
}

/// Eight sequences with documents of 1 to 31 tokens; 8, 4, 2 and 1 micro-batches at 20, 40, 80 and
/// 200 tokens.
[[nodiscard]] inline Batch uneven_batch() {
  return make_batch({{20},
                     {1, 1, 1, 15, 2},
                     {19, 1},
                     {3, 3, 3, 3, 3, 5},
                     {10, 10},
                     {20},
                     {2, 18},
                     {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 10}});
}

/// Model and everything around it, from a recipe.
struct Bench {
  explicit Bench(const Recipe& recipe_, int64_t micro_batch_tokens = 1 << 20)
      : Bench(recipe_, micro_batch_tokens, one_rank) {}
  Bench(const Recipe& recipe_, int64_t micro_batch_tokens, Communicator& communicator)
      : recipe(recipe_),
        model(build_model(recipe, pool, 64)),
        routing(build_routing(recipe)),
        optimizer(build_optimizer(recipe, *model, pool)),
        step({pool, *model, *routing, *optimizer, communicator},
             {.micro_batch_tokens = micro_batch_tokens,
              .recompute = recipe.train.recompute.value_or(Recompute::none),
              .head_z_loss = recipe.train.head_z_loss,
              .seed = 11,
              .consistency = recipe.train.consistency_coefficient(),
              .diversify = diversification(recipe)}) {}

  StateDict state() {
    SaveVisitor save;
    visit_parameters(*model, save);
    {
      const StateScope scope(save, "optim");
      optimizer->visit_state(save);
    }
    const StateScope scope(save, "balance");
    routing->visit_state(save);
    return save.take();
  }

  Recipe recipe;
  Pool pool;
  SingleRank one_rank;
  std::unique_ptr<Model> model;
  std::unique_ptr<RoutingSession> routing;
  std::unique_ptr<Optimizer> optimizer;
  TrainingStep step;
};

[[nodiscard]] inline Parameter& parameter(const Bench& bench, std::string_view name) {
  for (Parameter* p : bench.model->parameters()) {
    if (p->name == name) return *p;
  }
  throw InternalError("no such parameter");
}

}  // namespace sluice::testing
