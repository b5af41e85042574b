#pragma once
// One feed-forward alone, made from its table entry.

#include <gtest/gtest.h>

#include <vector>

#include "layers/model.h"
#include "tests/support/set_fields.h"
#include "tests/support/tiny_model.h"

namespace sluice::testing_support {

/// The layer `type` with `fields` in double, weights of standard deviation 0.5.
class LayerRun {
 public:
  LayerRun(const std::string& type, const nlohmann::json& fields, int64_t hidden_size) {
    model_.hidden_size = hidden_size;
    init_.std = 0.5;
    for (const FeedForwardEntry* entry : feed_forward_table()) {
      if (entry->name != type) continue;
      config_ = entry->make_config();
      testing::set_fields(*config_, fields);
      EXPECT_EQ(config_->check(), "");
      layer_ = entry->make(Builder(pool_, DType::f64, 3, init_, 1), model_, *config_, {});
    }
  }

  /// y of tokens x [N, D], one document, in evaluation.
  [[nodiscard]] std::vector<double> run(const Tensor& x) {
    Tape tape(pool_);
    const NoGrad no_grad(tape);
    const SequenceLayout layout = SequenceLayout::single(pool_, x.dim(0));
    const ForwardContext context{tape, layout};
    BlockState state;
    const Tensor y = layer_->forward(context, x, state);
    const auto values = y.span<double>();
    return {values.begin(), values.end()};
  }

  [[nodiscard]] Parameter& parameter(const std::string& name) {
    for (Parameter* parameter : layer_->parameters()) {
      if (parameter->name.ends_with(name)) return *parameter;
    }
    throw InternalError("no parameter " + name);
  }
  [[nodiscard]] const double* values(const std::string& name) {
    return parameter(name).value.data<double>();
  }
  [[nodiscard]] Tensor tokens(int64_t count) {
    return SampleFactory(pool_, DType::f64, 3).uniform({count, model_.hidden_size}, -1.0, 1.0);
  }
  [[nodiscard]] FeedForward& layer() { return *layer_; }
  [[nodiscard]] Pool& pool() { return pool_; }

 private:
  Pool pool_;
  InitConfig init_;
  ModelConfig model_;
  std::unique_ptr<Configurable> config_;
  std::unique_ptr<FeedForward> layer_;
};

}  // namespace sluice::testing_support
