#include <cmath>

#include "layers/routed_layer.h"
#include "tests/layers/model_gradients.h"
#include "tests/support/set_fields.h"
#include "tests/support/tiny_model.h"

namespace sluice {
namespace {

using testing_support::dense_of;
using testing_support::element;
using testing_support::plain_session;
using testing_support::tiny_batch;
using testing_support::tiny_config;
using testing_support::TinyBatch;

using Json = nlohmann::json;

/// "AZ" with Z a union of 4 slices of a layer of width 48.
ModelConfig union_config(const Json& fields) {
  ModelConfig config = tiny_config("AF", "f64");
  auto settings = union_of_experts_feed_forward.make_config();
  Json all = {{"num_experts", 4}, {"top_k", 2.0}, {"intermediate_size", 48}};
  all.update(fields);
  testing::set_fields(*settings, all);
  EXPECT_EQ(settings->check(), "");
  config.variants = {
      {"Z", {"union_of_experts", std::shared_ptr<Configurable>(std::move(settings))}}};
  config.pattern = "AZ";
  return config;
}

TEST(UnionOfExperts, GradientsOfAWholeModelAgreeWithDifferences) {
  for (const char* router : {"document_mean", "document_share"}) {
    for (const char* over : {"prefix", "document"}) {
      testing_support::expect_model_gradients(
          union_config({{"router", {{"type", router}, {"over", over}}}}));
    }
  }
}

std::vector<double> hidden_of(Pool& pool, const Model& model) {
  const TinyBatch batch = tiny_batch(pool, {{7, 4}});
  RoutingSession session = plain_session(model);
  session.begin_evaluation();
  Tape tape(pool);
  const NoGrad no_grad(tape);
  ForwardContext context{tape, batch.layout};
  context.routing = &session;
  const Tensor hidden = model.forward(context, batch.tokens).hidden;
  std::vector<double> values;
  for (int64_t i = 0; i < hidden.numel(); ++i) values.push_back(element(hidden, i));
  return values;
}

Parameter& parameter_of(const Model& model, const std::string& name) {
  for (Parameter* parameter : model.parameters()) {
    if (parameter->name.ends_with(name)) return *parameter;
  }
  throw InternalError("no parameter " + name);
}

/// expert e's columns of w_down [D, F] from its [D, w].
void join_columns(const Tensor& slices, Tensor& whole) {
  const int64_t experts = slices.dim(0);
  const int64_t rows = slices.dim(1);
  const int64_t width = slices.dim(2);
  for (int64_t e = 0; e < experts; ++e) {
    for (int64_t d = 0; d < rows; ++d) {
      std::copy_n(slices.data<double>() + (e * rows + d) * width, width,
                  whole.data<double>() + (d * experts + e) * width);
    }
  }
}

TEST(UnionOfExperts, OfAllExpertsWithoutGatesIsTheDenseLayer) {
  Pool pool;
  for (const char* router : {"document_mean", "document_share", "top_k"}) {
    const Model slices(pool,
                       union_config({{"top_k", 4.0},
                                     {"gate_output", false},
                                     {"router", {{"type", router}, {"weights", "as_is"}}}}),
                       5);
    const Model dense(pool, tiny_config("AF", "f64"), 5);
    for (Parameter* parameter : dense.parameters()) {
      const std::string& name = parameter->name;
      if (name.find("layers.1.") == std::string::npos || name.find("norm") != std::string::npos) {
        parameter->value.copy_from(parameter_of(slices, name).value);
      }
    }
    for (const char* name : {"w_gate", "w_up"}) {
      // Rows of the slices follow each other.
      const Tensor& from = parameter_of(slices, std::string("experts.") + name).value;
      Tensor& to = parameter_of(dense, name).value;
      ASSERT_EQ(from.numel(), to.numel());
      std::copy_n(from.data<double>(), from.numel(), to.data<double>());
    }
    join_columns(parameter_of(slices, "experts.w_down").value, parameter_of(dense, "w_down").value);
    const auto a = hidden_of(pool, slices);
    const auto b = hidden_of(pool, dense);
    for (size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], 1e-12) << router << " " << i;
  }
}

TEST(UnionOfExperts, WithoutGatesTeachesItsRouterNothing) {
  Pool pool;
  for (const bool gate_output : {true, false}) {
    const Model model(pool, union_config({{"gate_output", gate_output}}), 5);
    testing_support::zero_grads(model, pool);
    const TinyBatch batch = tiny_batch(pool, {{7, 4}});
    RoutingSession session = plain_session(model);
    Tape tape(pool);
    const auto context = testing_support::training_context(tape, batch, session);
    tape.backward(model.loss(context, batch.tokens, batch.targets).total);
    Parameter& router = parameter_of(model, "router.weight");
    router.materialise_grad();
    double squares = 0.0;
    for (const double value : router.grad.span<double>()) squares += value * value;
    EXPECT_EQ(squares > 0.0, gate_output);
  }
}

TEST(UnionOfExperts, RefusesSlicesOfUnequalWidth) {
  auto settings = union_of_experts_feed_forward.make_config();
  testing::set_fields(*settings, {{"num_experts", 5}, {"top_k", 2.0}, {"intermediate_size", 48}});
  EXPECT_EQ(settings->check(),
            "intermediate_size: found 48, allowed a multiple of 5 (num_experts)");
}

}  // namespace
}  // namespace sluice
