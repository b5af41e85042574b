#pragma once
// From a recipe to objects: the only place that knows every registry.
//
//   Pool pool;
//   const Dataset data = load_dataset(recipe.data, recipe.seed);
//   const auto model = build_model(recipe, pool, data.tokenizer->vocab_size());
//   const auto routing = build_routing(recipe);
//   const auto optimizer = build_optimizer(recipe, *model, pool);
//
// On a pool for shapes only the same calls give what `plan` measures.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/evaluation.h"
#include "data/loader.h"
#include "layers/model.h"
#include "layers/routing_session.h"
#include "optim/optimizer.h"
#include "train/checkpoint/checkpoint.h"
#include "train/recipe.h"
#include "train/step.h"

namespace sluice {

/// What a recipe gives only together with its data: lengths in steps and tokens.
struct RunSizes {
  int64_t steps = 0;  // of the whole run
  int64_t sequence_length = 0;
  int64_t sequences_per_step = 0;  // of the global batch
  int64_t tokens_per_step = 0;
  int64_t micro_batch_tokens = 0;
  Recompute recompute = Recompute::none;
  int64_t train_tokens = 0;  // of one pass over the data; 0 when not known
  /// How each value that the recipe does not give was chosen, one sentence each.
  std::vector<std::string> choices;

  /// Where a run stands that has done `step` steps and drawn `tokens` tokens; with an offset, where its
  /// schedules stand.
  [[nodiscard]] Progress progress(int64_t step, int64_t tokens, ScheduleOffset offset = {}) const;
};

/// `train_tokens` is 0 for data that nobody has read; then a length in epochs is a ConfigError. What
/// `train.recompute: auto` comes to takes a plan: see run_sizes in plan.h; here it is none.
[[nodiscard]] RunSizes derive_sizes(const Recipe& recipe, int64_t train_tokens);

/// The model with its initial values; parameters that a pattern of train.freeze matches are not
/// trainable, nor, in a model with adapters, others than theirs that no pattern of train.unfreeze
/// matches. Throws ConfigError when a pattern matches nothing, or the recipe's vocabulary is smaller
/// than the tokenizer's.
[[nodiscard]] std::unique_ptr<Model> build_model(const Recipe& recipe, Pool& pool,
                                                 int64_t tokenizer_vocab_size);
/// ActiveExpertsQuery::initial_logit_std of the recipe's routers.
[[nodiscard]] double initial_logit_std(const ModelConfig& model);
/// The parameters that a pattern of train.freeze stands for.
[[nodiscard]] std::vector<Parameter*> parameters_matching(const std::string& pattern,
                                                          const Model& model);
/// One balancer per expert layer.
[[nodiscard]] std::unique_ptr<RoutingSession> build_routing(const Recipe& recipe);
[[nodiscard]] std::unique_ptr<Optimizer> build_optimizer(const Recipe& recipe, const Model& model,
                                                         Pool& pool);
/// How the recipe's experts are spawned; null where they are experts from the start.
[[nodiscard]] std::shared_ptr<const DiversifyConfig> diversification(const Recipe& recipe);
/// Steps at the run's start in which one expert takes all tokens and nothing is routed; 0 where there
/// are experts from the start.
[[nodiscard]] int64_t steps_without_routes(const Recipe& recipe);
/// Why a run of `steps` steps never gets to its experts; empty where it does.
[[nodiscard]] std::string check_diversify(const Recipe& recipe, int64_t steps);
[[nodiscard]] StepOptions step_options(const Recipe& recipe, const RunSizes& sizes);
[[nodiscard]] LoaderOptions loader_options(const Recipe& recipe, const RunSizes& sizes,
                                           const Communicator& communicator);
[[nodiscard]] EvaluationOptions evaluation_options(const Recipe& recipe, const RunSizes& sizes,
                                                   const Communicator& communicator);
/// Uses the threads that the recipe asks for, all processors for "auto".
void use_threads(const Recipe& recipe);

/// Parameters under their names.
void visit_parameters(const Model& model, StateVisitor& visitor);
/// The same in the scope "model", and the balancers' state in "balance".
void visit_model(const Model& model, RoutingSession& routing, StateVisitor& visitor);

/// The checkpoint that a new run starts from (train.init_from, upcycle.from); nullopt when the recipe
/// names none. Throws ConfigError when there is no such file, CheckpointError.
[[nodiscard]] std::optional<Checkpoint> initial_checkpoint(const Recipe& recipe);
/// The checkpoint in `file`, a file or a run's folder, that the recipe's key `key` names. Throws as
/// initial_checkpoint.
[[nodiscard]] Checkpoint named_checkpoint(std::string_view key, const std::string& file,
                                          const Recipe& recipe);
/// Overwrites the parameters with those of `checkpoint`; adapters that it has not stay as they are.
/// Throws CheckpointError, naming `source`, when they do not fit.
void load_weights(const Checkpoint& checkpoint, const std::string& source, const Model& model);

/// A model as a checkpoint holds it, ready for evaluation and generation.
struct TrainedModel {
  Recipe recipe;  // with the experts that it has by now (train.pruning)
  CheckpointMeta meta;
  std::shared_ptr<const Tokenizer> tokenizer;  // shared with a Dataset made with it
  std::unique_ptr<Pool> pool;                  // null: it lives in its owner's
  std::unique_ptr<Model> model;
  std::unique_ptr<RoutingSession> routing;  // with the balancers' state
};

/// How a trained model's matrices are held.
enum class WeightStorage : uint8_t {
  f32,
  bf16,  // rounded to nearest even; half the memory, for evaluation and generation only
};

/// `source` (a file name) stands in messages. With bf16 the memory of the f32 weights goes back to the
/// system; results are those of the rounded weights in f32, bit for bit. Throws CheckpointError,
/// ConfigError.
[[nodiscard]] TrainedModel build_trained_model(const Checkpoint& checkpoint,
                                               const std::string& source,
                                               WeightStorage weights = WeightStorage::f32);
/// The same in `pool`, which outlives it; on one for shapes only the values are not looked at.
[[nodiscard]] TrainedModel build_trained_model_in(Pool& pool, const Checkpoint& checkpoint,
                                                  const std::string& source);

}  // namespace sluice
