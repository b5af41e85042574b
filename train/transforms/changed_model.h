#pragma once
// A changed model that is only tried out: built once, filled again and again.
//
//   ChangedModel trial(input, changes);
//   const double before = trial.loss(changes);
//   const double after = trial.loss(other_changes);       // of as many experts

#include <memory>
#include <span>

#include "train/transforms/transforming.h"

namespace sluice {

class ChangedModel {
 public:
  /// `shape` is a change of the sizes of all later ones. `input` must outlive this.
  ChangedModel(const TransformInput& input, std::span<const ExpertChange> shape);
  /// Mean cross-entropy on input.text, in nats per token.
  [[nodiscard]] double loss(std::span<const ExpertChange> changes);

 private:
  const TransformInput& input_;
  Recipe recipe_;
  Pool pool_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<RoutingSession> routing_;
  StateDict state_;  // "model/..." and "balance/..."
};

}  // namespace sluice
