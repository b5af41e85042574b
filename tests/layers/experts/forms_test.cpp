// What every form of experts promises, and what the pages say of each.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "layers/experts.h"
#include "tests/layers/layer_checks.h"
#include "tests/support/set_fields.h"
#include "tests/support/tiny_model.h"

namespace sluice {
namespace {

using testing_support::experts_of;
using testing_support::tiny_config;

using Json = nlohmann::json;

Tagged form_of(const std::string& type, const Json& fields) {
  auto config = experts_registry().at(type).make_config();
  testing::set_fields(*config, fields);
  return {type, std::shared_ptr<Configurable>(std::move(config))};
}

class ExpertForms : public ::testing::TestWithParam<std::string> {};

TEST_P(ExpertForms, GradientsOfAWholeModelAgreeWithDifferences) {
  if (GetParam() == "ternary") GTEST_SKIP() << "its gradient passes the rounding straight through";
  ModelConfig config = tiny_config("AE", "f64");
  experts_of(config).form = form_of(GetParam(), Json::object());
  testing_support::expect_model_gradients(config);
}

TEST_P(ExpertForms, InExpertOrderAreTheSameFunction) {
  Pool pool;
  const InitConfig init;
  const auto experts = make_experts(Builder(pool, DType::f64, 1, init, 1), {4, 6, 5},
                                    form_of(GetParam(), Json::object()));
  Tape tape(pool);
  const NoGrad no_grad(tape);
  const SequenceLayout layout = SequenceLayout::single(pool, 4);
  const ForwardContext context{tape, layout};
  const Tensor x = SampleFactory(pool, DType::f64, 3).uniform({4, 6}, -1.0, 1.0);
  // Tokens in expert order: 0 0 2 2, none for experts 1 and 3.
  const std::vector<int32_t> chosen{0, 0, 2, 2};
  const DispatchPlan plan = make_dispatch_plan(pool, chosen, 4, 1, 4);
  const Tensor ones = Tensor::of<double>(pool, {4, 1}, std::vector<double>(4, 1.0));
  const Tensor combined = experts->forward(context, x, ones, plan);
  const Tensor ordered = experts->forward(context, x, plan.offsets);
  ASSERT_EQ(combined.shape(), x.shape());
  for (int64_t i = 0; i < x.numel(); ++i) {
    EXPECT_NEAR(combined.data<double>()[i], ordered.data<double>()[i], 1e-14) << i;
  }
}

TEST_P(ExpertForms, StandInARun) {
  for (const auto& [dtype, tolerance] : {std::pair{"f64", 1e-12}, {"f32", 1e-5}}) {
    ModelConfig config = tiny_config("AEE", dtype);
    experts_of(config).form = form_of(GetParam(), Json::object());
    testing_support::expect_documents_apart(config);
    testing_support::expect_decoding_equals_forward(config, tolerance);
    testing_support::expect_same_on_any_threads(config);
    testing_support::expect_recomputation_changes_no_bit(config);
  }
}

std::vector<std::string> form_names() {
  std::vector<std::string> names;
  for (const std::string_view name : experts_registry().names()) names.emplace_back(name);
  return names;
}

INSTANTIATE_TEST_SUITE_P(Every, ExpertForms, ::testing::ValuesIn(form_names()),
                         [](const auto& which) { return which.param; });

/// Parameters of two sets of experts by name, copied from one to the other where they exist.
Parameter& parameter_of(const Experts& experts, const std::string& name) {
  for (Parameter* parameter : experts.parameters()) {
    if (parameter->name == name) return *parameter;
  }
  throw InternalError("no parameter " + name);
}

void fill_identity(Parameter& parameter) {
  const int64_t columns = parameter.value.dim(1);
  for (int64_t i = 0; i < parameter.value.numel(); ++i) {
    parameter.value.data<double>()[i] = i / columns == i % columns ? 1.0 : 0.0;
  }
}

/// Both outputs on random tokens that use two experts each.
void expect_same_function(const Experts& a, const Experts& b, Pool& pool) {
  Tape tape(pool);
  const NoGrad no_grad(tape);
  const SequenceLayout layout = SequenceLayout::single(pool, 5);
  const ForwardContext context{tape, layout};
  SampleFactory make(pool, DType::f64, 5);
  const Tensor x = make.uniform({5, 6}, -1.0, 1.0);
  const Tensor weights = make.uniform({5, 2}, 0.1, 1.0);
  const std::vector<int32_t> chosen{0, 1, 2, 0, 1, 2, 2, 1, 0, 2};
  const DispatchPlan plan = make_dispatch_plan(pool, chosen, 5, 2, 3);
  const Tensor first = a.forward(context, x, weights, plan);
  const Tensor second = b.forward(context, x, weights, plan);
  for (int64_t i = 0; i < x.numel(); ++i) {
    EXPECT_NEAR(first.data<double>()[i], second.data<double>()[i], 1e-13) << i;
  }
}

TEST(NarrowExperts, OfFullWidthWithIdentitiesAreTheStandardOnes) {
  Pool pool;
  const InitConfig init;
  const Builder b(pool, DType::f64, 1, init, 1);
  const auto standard = make_experts(b, {3, 6, 5}, default_experts());
  const auto narrow = make_experts(b, {3, 6, 5}, form_of("narrow", {{"size", 6}}));
  fill_identity(parameter_of(*narrow, "w_descend"));
  fill_identity(parameter_of(*narrow, "w_ascend"));
  expect_same_function(*standard, *narrow, pool);
}

TEST(LatentExperts, WithSharedIdentitiesAreTheStandardOnes) {
  Pool pool;
  const InitConfig init;
  const Builder b(pool, DType::f64, 1, init, 1);
  const auto standard = make_experts(b, {3, 6, 5}, default_experts());
  for (const bool factor_down : {true, false}) {
    const auto latent =
        make_experts(b, {3, 6, 5}, form_of("latent", {{"size", 6}, {"factor_down", factor_down}}));
    for (const char* name : {"w_shared_gate", "w_shared_up"}) {
      fill_identity(parameter_of(*latent, name));
    }
    if (factor_down) fill_identity(parameter_of(*latent, "w_shared_down"));
    for (const char* name : {"w_gate", "w_up", "w_down"}) {
      parameter_of(*latent, name).value.copy_from(parameter_of(*standard, name).value);
    }
    expect_same_function(*standard, *latent, pool);
  }
}

TEST(LatentExperts, HaveTheParametersOfThePage) {
  Pool pool;
  const InitConfig init;
  const auto latent = make_experts(Builder(pool, DType::f64, 1, init, 1), {3, 6, 5},
                                   form_of("latent", {{"size", 4}}));
  int64_t count = 0;
  for (const Parameter* parameter : latent->parameters()) count += parameter->value.numel();
  EXPECT_EQ(count, 3 * 6 * 4 + 3 * 3 * 5 * 4);  // 3 D m + 3 E F m
}

TEST(MlpExperts, WithReluAreOneWideMlpWithBlocksZeroed) {
  Pool pool;
  const InitConfig init;
  const auto experts = make_experts(Builder(pool, DType::f64, 1, init, 1), {3, 6, 5},
                                    form_of("mlp", Json::object()));
  Tape tape(pool);
  const NoGrad no_grad(tape);
  const SequenceLayout layout = SequenceLayout::single(pool, 1);
  const ForwardContext context{tape, layout};
  const Tensor x = SampleFactory(pool, DType::f64, 3).uniform({1, 6}, -1.0, 1.0);
  const std::vector<int32_t> chosen{2, 0};
  const Tensor weights = Tensor::of<double>(pool, {1, 2}, std::vector<double>{0.25, 0.75});
  const Tensor y = experts->forward(context, x, weights, make_dispatch_plan(pool, chosen, 1, 2, 3));
  const double* up = parameter_of(*experts, "w_up").value.data<double>();
  const double* down = parameter_of(*experts, "w_down").value.data<double>();
  const std::vector<double> omega{0.75, 0.0, 0.25};
  for (int64_t d = 0; d < 6; ++d) {
    double sum = 0.0;
    for (int64_t neuron = 0; neuron < 15; ++neuron) {
      double z = 0.0;
      for (int64_t i = 0; i < 6; ++i) z += up[neuron * 6 + i] * x.data<double>()[i];
      const int64_t e = neuron / 5;
      sum += down[(e * 6 + d) * 5 + neuron % 5] * omega[static_cast<size_t>(e)] * std::max(z, 0.0);
    }
    EXPECT_NEAR(y.data<double>()[d], sum, 1e-14);
  }
}

TEST(GruExperts, SeeTheTokensOfADocumentThatChoseThemAndNoOthers) {
  Pool pool;
  const InitConfig init;
  const auto experts = make_experts(Builder(pool, DType::f64, 1, init, 1), {2, 6, 5},
                                    form_of("gru", {{"state_size", 7}}));
  Tape tape(pool);
  const NoGrad no_grad(tape);
  SequenceLayout layout = SequenceLayout::single(pool, 9);
  layout.document_offsets = {0, 5, 9};
  const ForwardContext context{tape, layout};
  const Tensor x = SampleFactory(pool, DType::f64, 3).uniform({9, 6}, -1.0, 1.0);
  const std::vector<int32_t> chosen{0, 1, 0, 0, 1, 1, 0, 1, 0};
  const auto run = [&](const ForwardContext& at, const Tensor& tokens,
                       const std::vector<int32_t>& expert) {
    const auto n = static_cast<int64_t>(expert.size());
    const Tensor ones = Tensor::of<double>(pool, {n, 1}, std::vector<double>(expert.size(), 1.0));
    return experts->forward(at, tokens, ones, make_dispatch_plan(pool, expert, n, 1, 2));
  };
  const Tensor whole = run(context, x, chosen);
  for (size_t d = 0; d < 2; ++d) {
    for (const int32_t e : {0, 1}) {
      std::vector<int64_t> tokens;
      for (int64_t t = layout.document_offsets[d]; t < layout.document_offsets[d + 1]; ++t) {
        if (chosen[static_cast<size_t>(t)] == e) tokens.push_back(t);
      }
      const auto n = static_cast<int64_t>(tokens.size());
      std::vector<double> rows;
      for (const int64_t t : tokens) {
        rows.insert(rows.end(), x.data<double>() + t * 6, x.data<double>() + (t + 1) * 6);
      }
      const SequenceLayout alone = SequenceLayout::single(pool, n);
      const Tensor part = run({tape, alone}, Tensor::of<double>(pool, {n, 6}, rows),
                              std::vector<int32_t>(tokens.size(), e));
      for (int64_t i = 0; i < n * 6; ++i) {
        const int64_t t = tokens[static_cast<size_t>(i / 6)];
        EXPECT_EQ(part.data<double>()[i], whole.data<double>()[t * 6 + i % 6]) << "token " << t;
      }
    }
  }
}

TEST(HeterogeneousExperts, OfOneKindInTwoPartsAreThatKind) {
  Pool pool;
  const InitConfig init;
  const Builder b(pool, DType::f64, 1, init, 1);
  const Json mlp = {{"type", "mlp"}, {"activation", "tanh"}};
  const auto whole = make_experts(b, {3, 6, 5}, form_of("mlp", {{"activation", "tanh"}}));
  const auto parts = make_experts(
      b, {3, 6, 5},
      form_of("heterogeneous", {{"kinds", Json::array({mlp, mlp})}, {"counts", {1, 2}}}));
  for (const char* name : {"w_up", "w_down"}) {
    const Tensor& from = parameter_of(*whole, name).value;
    Tensor& first = parameter_of(*parts, std::string("kinds.0.") + name).value;
    Tensor& second = parameter_of(*parts, std::string("kinds.1.") + name).value;
    std::copy_n(from.data<double>(), first.numel(), first.data<double>());
    std::copy_n(from.data<double>() + first.numel(), second.numel(), second.data<double>());
  }
  expect_same_function(*whole, *parts, pool);
}

TEST(HeterogeneousExperts, ShareTheExpertsOutAmongTheirKinds) {
  Pool pool;
  const InitConfig init;
  const Builder b(pool, DType::f64, 1, init, 1);
  const auto experts = make_experts(b, {6, 4, 5}, form_of("heterogeneous", Json::object()));
  EXPECT_EQ(parameter_of(*experts, "kinds.0.w_up").value.shape(), (Shape{3, 5, 4}));
  EXPECT_EQ(parameter_of(*experts, "kinds.1.w_h").value.shape(), (Shape{3, 15, 5}));
  EXPECT_THROW((void)make_experts(b, {3, 4, 5}, form_of("heterogeneous", Json::object())),
               ConfigError);
  EXPECT_THROW((void)make_experts(b, {6, 4, 5}, form_of("heterogeneous", {{"counts", {1, 2}}})),
               ConfigError);
}

TEST(HeterogeneousExperts, CannotBeSpawnedFromOne) {
  ModelConfig config = tiny_config("AE", "f64");
  experts_of(config).form = form_of("heterogeneous", Json::object());
  EXPECT_EQ(experts_of(config).check(), "");
  experts_of(config).diversify = std::make_shared<DiversifyConfig>();
  EXPECT_THAT(experts_of(config).check(), ::testing::HasSubstr("diversify: given, but with form"));
}

}  // namespace
}  // namespace sluice
