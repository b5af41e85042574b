#include "train/transforms/changed_model.h"

#include <numeric>

#include "train/evaluate.h"

namespace sluice {

ChangedModel::ChangedModel(const TransformInput& input, std::span<const ExpertChange> shape)
    : input_(input),
      recipe_(changed_recipe(input.model.meta.recipe, input.layers, shape)),
      model_(build_model(recipe_, pool_, input.model.tokenizer->vocab_size())),
      routing_(build_routing(recipe_)) {
  SaveVisitor save;
  visit_model(*model_, *routing_, save);
  state_ = save.take();
}

double ChangedModel::loss(std::span<const ExpertChange> changes) {
  std::vector<std::string> notes;
  change_state(input_.state, input_.layers, changes, {}, state_, notes);
  LoadVisitor load(state_, "the changed model");
  visit_model(*model_, *routing_, load);
  load.finish();
  SingleRank communicator;
  double nats = 0.0;
  int64_t tokens = 0;
  routing_->begin_evaluation();
  for (const Batch& batch : input_.text) {
    const std::vector<double> losses =
        token_losses({pool_, *model_, *routing_, communicator}, batch, input_.progress);
    nats += std::accumulate(losses.begin(), losses.end(), 0.0);
    tokens += batch.valid_targets();
  }
  routing_->end_evaluation();
  return nats / static_cast<double>(std::max<int64_t>(1, tokens));
}

}  // namespace sluice
