// Adaptive depth: what every method of depths.def promises, and what the pages say of each.

#include "layers/depth.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "autograd/support/parallel.h"
#include "layers/key_value_sharing.h"
#include "layers/token_subset.h"
#include "tests/layers/model_gradients.h"
#include "tests/support/set_fields.h"
#include "tests/support/tiny_model.h"

namespace sluice {
namespace {

using testing_support::element;
using testing_support::plain_session;
using testing_support::same_bits;
using testing_support::tiny_batch;
using testing_support::tiny_config;
using testing_support::TinyBatch;
using testing_support::training_context;

using Json = nlohmann::json;

ModelConfig depth_config(const std::string& pattern, const std::string& type, const Json& fields,
                         const std::string& dtype = "f32") {
  ModelConfig config = tiny_config("AFE", dtype);
  auto settings = depth_registry().at(type).make_config();
  testing::set_fields(*settings, fields);
  config.pattern = pattern;
  config.depth = {type, std::shared_ptr<Configurable>(std::move(settings))};
  return config;
}

/// A method of depths.def, with settings that are not its defaults.
struct DepthMethod {
  std::string name;
  std::string type;
  Json fields = Json::object();
  friend void PrintTo(const DepthMethod& method, std::ostream* out) { *out << method.name; }
};

class DepthMethods : public ::testing::TestWithParam<DepthMethod> {
 protected:
  [[nodiscard]] static ModelConfig config(const std::string& pattern,
                                          const std::string& dtype = "f32") {
    return depth_config(pattern, GetParam().type, GetParam().fields, dtype);
  }
  Pool pool_;
};

const std::vector<std::vector<int64_t>> kPack = {{9, 1, 4}, {6}};

TEST_P(DepthMethods, GradientsOfAWholeModelAgreeWithDifferences) {
  for (const char* pattern : {"F[AF]", "[AE]F", "[AUF]"}) {
    Json fields = GetParam().fields;
    // The check is of the language-model loss alone.
    if (depth_registry().at(GetParam().type).looks_ahead) fields["coefficient"] = 0.0;
    testing_support::expect_model_gradients(depth_config(pattern, GetParam().type, fields, "f64"));
  }
}

TEST_P(DepthMethods, RecomputationAndThreadsChangeNoBit) {
  const ModelConfig given = config("F[AE]AF");
  std::vector<Tensor> first;
  for (const Recompute recompute : {Recompute::none, Recompute::experts, Recompute::all}) {
    for (const int threads : {1, 3}) {
      set_num_threads(threads);
      const Model model(pool_, given, 3);
      RoutingSession session = plain_session(model);
      const TinyBatch batch = tiny_batch(pool_, kPack);
      testing_support::zero_grads(model, pool_);
      session.begin_step(1);
      session.begin_micro_batch(0);
      Tape tape(pool_);
      const auto context = training_context(tape, batch, session, recompute);
      const Model::Loss loss = model.loss(context, batch.tokens, batch.targets);
      tape.backward(loss.total);
      std::vector<Tensor> grads;
      for (const Parameter* parameter : model.parameters()) grads.push_back(parameter->grad);
      if (first.empty()) first = grads;
      for (size_t i = 0; i < grads.size(); ++i) {
        EXPECT_TRUE(same_bits(grads[i], first[i])) << model.parameters()[i]->name;
      }
    }
  }
  set_num_threads(1);
}

TEST_P(DepthMethods, DocumentsOfAPackAreTheSameAlone) {
  // In training: the documents of a pack and the same documents in sequences of their own.
  const Model model(pool_, config("A[AF]F"), 5);
  const Tensor tokens = tiny_batch(pool_, {{9, 1, 4}, {6}}).tokens;
  const auto hidden = [&](const std::vector<std::vector<int64_t>>& sequences) {
    RoutingSession session = plain_session(model);
    session.begin_step(1);
    session.begin_micro_batch(0);
    const TinyBatch batch = tiny_batch(pool_, sequences);
    Tape tape(pool_);
    const NoGrad no_grad(tape);
    return model.forward(training_context(tape, batch, session), tokens).hidden.detached();
  };
  EXPECT_TRUE(same_bits(hidden({{9, 1, 4}, {6}}), hidden({{9}, {1}, {4}, {6}})));
}

TEST_P(DepthMethods, DecodingEqualsEvaluation) {
  const Model model(pool_, config("A[AE]AF"), 7);
  const TinyBatch batch = tiny_batch(pool_, {{23}});
  RoutingSession session = plain_session(model);
  session.begin_evaluation();
  Tape tape(pool_);
  const NoGrad no_grad(tape);
  ForwardContext whole{tape, batch.layout};
  whole.routing = &session;
  const Tensor all = model.forward(whole, batch.tokens).hidden;
  DecodeState state = model.start_decoding(pool_, 23);
  int64_t first = 0;
  for (const int64_t count : {5, 1, 1, 9, 7}) {
    const SequenceLayout layout = SequenceLayout::single(pool_, count, first);
    ForwardContext context{tape, layout};
    context.routing = &session;
    const auto ids = batch.tokens.span<int32_t>().subspan(static_cast<size_t>(first),
                                                          static_cast<size_t>(count));
    const Tensor tokens = Tensor::of<int32_t>(pool_, {count}, ids);
    const Tensor rows = model.decode(context, tokens, state);
    for (int64_t i = 0; i < rows.numel(); ++i) {
      ASSERT_NEAR(element(rows, i), element(all, first * 32 + i), 1e-4) << "token " << first;
    }
    first += count;
  }
}

TEST_P(DepthMethods, HasRoutedLayersOfItsOwnForEveryVisit) {
  const ModelConfig given = config("E[AE]E");
  Pool pool;
  const Model model(pool, given, 1);
  EXPECT_EQ(model.experts_per_layer().size(), given.routed_layers().size());
  const auto visits =
      static_cast<size_t>(depth_registry().at(GetParam().type).visits(*given.depth.config));
  EXPECT_GE(given.routed_layers().size(), 2 + visits);
}

std::vector<DepthMethod> depth_methods() {
  std::vector<DepthMethod> methods;
  for (const std::string_view name : depth_registry().names()) {
    methods.push_back({std::string(name), std::string(name)});
  }
  for (const std::string type : {"recursions_by_expert_choice", "recursions_by_token_choice"}) {
    methods.push_back({type + "_of_shared_key_values", type, {{"key_values", "shared"}}});
  }
  return methods;
}

INSTANTIATE_TEST_SUITE_P(Every, DepthMethods, ::testing::ValuesIn(depth_methods()),
                         [](const auto& which) { return which.param.name; });

// --- keys and values of the first pass ----------------------------------------------------------------

const char* const kRecursions[] = {"recursions_by_expert_choice", "recursions_by_token_choice"};

/// Final hidden states of a batch in training.
std::vector<double> hidden_of(Pool& pool, const ModelConfig& config) {
  const Model model(pool, config, 5);
  RoutingSession session = plain_session(model);
  session.begin_step(1);
  session.begin_micro_batch(0);
  const TinyBatch batch = tiny_batch(pool, {{9, 1, 14}});
  Tape tape(pool);
  const NoGrad no_grad(tape);
  const Tensor hidden = model.forward(training_context(tape, batch, session), batch.tokens).hidden;
  std::vector<double> result;
  for (int64_t i = 0; i < hidden.numel(); ++i) result.push_back(element(hidden, i));
  return result;
}

TEST(SharedKeyValues, MakeNoDifferenceToASinglePassAndOneToSeveral) {
  Pool pool;
  for (const char* type : kRecursions) {
    for (const int64_t recursions : {1, 3}) {
      const auto hidden = [&](const char* key_values) {
        return hidden_of(
            pool,
            depth_config("[AF]F", type, {{"recursions", recursions}, {"key_values", key_values}}));
      };
      EXPECT_EQ(hidden("own") == hidden("shared"), recursions == 1) << type;
    }
  }
}

TEST(SharedKeyValues, NeedOneCacheForAllPasses) {
  for (const char* type : kRecursions) {
    std::vector<int64_t> bytes;
    for (const char* key_values : {"own", "shared"}) {
      Pool pool;
      const Model model(pool, depth_config("[AF]", type, {{"key_values", key_values}}), 1);
      pool.reset_peak();
      const int64_t before = pool.peak().total();
      const DecodeState state = model.start_decoding(pool, 4096);
      bytes.push_back(pool.peak().total() - before);
    }
    EXPECT_EQ(bytes[0], 3 * bytes[1]) << type;
  }
}

TEST(SharedKeyValues, AreRefusedWhereAMixerHasNone) {
  const ModelConfig config =
      depth_config("[MF]F", "recursions_by_token_choice", {{"key_values", "shared"}});
  EXPECT_EQ(config.check(),
            "depth.key_values: found shared, but a group has mamba2; share those of attention, "
            "attention_mixture");
  ModelConfig outside =
      depth_config("M[AF]F", "recursions_by_token_choice", {{"key_values", "shared"}});
  EXPECT_EQ(outside.check(), "");
  EXPECT_EQ(
      depth_config("[AAAAAAAA]", "recursions_by_token_choice", {{"key_values", "shared"}}).check(),
      "");
  EXPECT_NE(
      depth_config("[AAAAAAAAA]", "recursions_by_token_choice", {{"key_values", "shared"}}).check(),
      "");
}

// --- the pages' properties ---------------------------------------------------------------------------

/// The group of a model as a function of its input, with a body that is easy to know.
struct DepthRun {
  explicit DepthRun(const std::string& type, const Json& fields, bool training = true)
      : config(depth_config("[F]", type, fields, "f64")) {
    const Builder b(pool, DType::f64, 1, init, 1);
    const DepthEntry& entry = depth_registry().at(type);
    depth = entry.make(b, 2, *config.depth.config, SublayerPlace{});
    for (const RoutedLayer* routed : depth->routed_layers()) {
      (void)routed;
      balancers.push_back(std::make_unique<PlainBalancer>());
    }
    session.emplace(std::move(balancers));
    session->begin_step(1);
    session->begin_micro_batch(0);
    is_training = training;
  }

  struct PlainBalancer final : Balancer {
    [[nodiscard]] BalancerTraits traits() const override { return {}; }
  };

  void set(const std::string& name, const std::vector<double>& values) {
    for (Parameter* parameter : depth->parameters()) {
      if (parameter->name.find(name) == std::string::npos) continue;
      std::ranges::copy(values, parameter->value.data<double>());
      return;
    }
    FAIL() << "no parameter " << name;
  }

  /// Rows after the group whose body multiplies by 10; notes the positions of every visit.
  std::vector<double> run(const std::vector<double>& x, std::vector<int64_t> documents) {
    Tape tape(pool);
    const NoGrad no_grad(tape);
    const auto tokens = static_cast<int64_t>(x.size()) / 2;
    SequenceLayout layout = SequenceLayout::single(pool, tokens);
    layout.document_offsets = std::move(documents);
    layout.document_domains.assign(layout.document_offsets.size() - 1, 0);
    ForwardContext context{tape, layout};
    context.training = is_training;
    context.routing = &*session;
    context.valid_tokens = tokens;
    BlockState state;
    state.hidden = Tensor::of<double>(pool, {tokens, 2}, x);
    visits.clear();
    seen.clear();
    const BlockState done = depth->forward(
        context, state, [&](const ForwardContext& inner, BlockState at, int64_t visit) {
          EXPECT_EQ(visit, std::ssize(visits));
          const auto positions = inner.layout.positions.span<int32_t>();
          visits.emplace_back(positions.begin(), positions.end());
          if (inner.sharing != nullptr && inner.sharing->here != nullptr) {
            const auto of_first = inner.sharing->here->plan.token_of_row.span<int32_t>();
            seen.emplace_back(of_first.begin(), of_first.end());
            EXPECT_EQ(element(at.key_values.at("k"), 0), 0.0) << "made by the first pass";
          }
          BlockState result = std::move(at);
          result.key_values["k"] = Tensor::of<double>(pool, {1}, {static_cast<double>(visit)});
          std::vector<double> rows;
          for (const double value : result.hidden.span<double>()) rows.push_back(10.0 * value);
          result.hidden = Tensor::of<double>(pool, result.hidden.shape(), rows);
          return result;
        });
    const auto rows = done.hidden.span<double>();
    loss = done.losses[static_cast<size_t>(LossKind::depth)];
    return {rows.begin(), rows.end()};
  }

  Pool pool;
  InitConfig init;
  ModelConfig config;
  std::unique_ptr<Depth> depth;
  std::vector<std::unique_ptr<Balancer>> balancers;
  std::optional<RoutingSession> session;
  bool is_training = true;
  std::vector<std::vector<int32_t>> visits;
  std::vector<std::vector<int32_t>> seen;  // by later passes: their tokens among those of the first
  Tensor loss;
};

TEST(MixtureOfDepths, MovesTheTokensOfLargestWeightByIt) {
  DepthRun group("mixture_of_depths", {{"capacity", 0.5}, {"coefficient", 0.0}});
  group.set("router", {1.0, 0.0});
  // r = 1, 3, 2, -1 | 5: of four the two of largest r, of a document of one that one.
  const auto y = group.run({1, 0, 3, 1, 2, 2, -1, 3, 5, 4}, {0, 4, 5});
  ASSERT_EQ(group.visits.size(), 1U);
  EXPECT_EQ(group.visits[0], (std::vector<int32_t>{1, 2, 4}));
  // x + r (10 x - x) = x (1 + 9 r); the others keep their bits.
  EXPECT_EQ(
      y, (std::vector<double>{1, 0, 3 * 28.0, 28, 2 * 19.0, 2 * 19.0, -1, 3, 5 * 46.0, 4 * 46.0}));
}

TEST(MixtureOfDepths, WithFullCapacityAndUnitWeightsIsTheDenseBlock) {
  DepthRun group("mixture_of_depths", {{"capacity", 1.0}});
  group.set("router", {0.5, 0.5});
  const auto y = group.run({1, 1, 2, 0, 0, 2}, {0, 3});
  EXPECT_EQ(y, (std::vector<double>{10, 10, 20, 0, 0, 20}));
}

TEST(MixtureOfDepths, InEvaluationThePredictorChooses) {
  DepthRun group("mixture_of_depths", {{"capacity", 0.5}}, false);
  group.set("router", {1.0, 0.0});
  group.set("predictor", {0.0, 1.0});
  (void)group.run({1, -1, 1, 0, 1, 2, 1, 3}, {0, 4});
  ASSERT_EQ(group.visits.size(), 1U);
  EXPECT_EQ(group.visits[0], (std::vector<int32_t>{2, 3}));
  // None at all: nothing runs, nothing changes.
  EXPECT_EQ(group.run({1, -1, 2, -2}, {0, 2}), (std::vector<double>{1, -1, 2, -2}));
  EXPECT_TRUE(group.visits.empty());
}

TEST(MixtureOfDepths, ThePredictorLearnsTheChoicesByCrossEntropy) {
  DepthRun group("mixture_of_depths", {{"capacity", 0.5}, {"coefficient", 2.0}});
  group.set("router", {1.0, 0.0});
  group.set("predictor", {0.0, 1.0});
  (void)group.run({1, 0.5, 2, -1}, {0, 2});
  // The second of two is chosen; u = 0.5 and -1: 2 / 2 (softplus(0.5) + softplus(1)).
  const double expected = std::log1p(std::exp(0.5)) + std::log1p(std::exp(1.0));
  EXPECT_NEAR(element(group.loss, 0), expected, 1e-12);
}

TEST(RecursionsByExpertChoice, FewerTokensGoOnAtEveryStep) {
  DepthRun group("recursions_by_expert_choice",
                 {{"recursions", 3}, {"alpha", 0.5}, {"coefficient", 0.0}});
  for (const char* name : {"router_0", "router_1", "router_2"}) group.set(name, {1.0, 0.0});
  const auto y = group.run({1, 0, 3, 0, 2, 0}, {0, 3});
  ASSERT_EQ(group.visits.size(), 3U);
  EXPECT_EQ(group.visits[0], (std::vector<int32_t>{0, 1, 2}));
  EXPECT_EQ(group.visits[1], (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(group.visits[2], (std::vector<int32_t>{1}));
  // x <- x + 0.5 sigmoid(x) 10 x, once for the first token, thrice for the second.
  const auto pass = [](double x) { return x + 0.5 / (1.0 + std::exp(-x)) * 10.0 * x; };
  EXPECT_NEAR(y[0], pass(1.0), 1e-12);
  EXPECT_NEAR(y[2], pass(pass(pass(3.0))), 1e-9);
  EXPECT_NEAR(y[4], pass(pass(2.0)), 1e-10);
}

TEST(RecursionsByTokenChoice, EachTokenGoesAsDeepAsItChose) {
  DepthRun group("recursions_by_token_choice", {{"recursions", 2}});
  // Logits (x0, x1): depth 0 where x0 is larger.
  group.set("router", {1.0, 0.0, 0.0, 1.0});
  const auto y = group.run({2, 1, 1, 3, 5, 0}, {0, 3});
  ASSERT_EQ(group.visits.size(), 2U);
  EXPECT_EQ(group.visits[0], (std::vector<int32_t>{0, 1, 2}));
  EXPECT_EQ(group.visits[1], (std::vector<int32_t>{1}));
  // x + p 10 x after one pass, x + p 100 x after two, p the probability of the depth.
  const auto p = [](double chosen, double other) { return 1.0 / (1.0 + std::exp(other - chosen)); };
  EXPECT_NEAR(y[0], 2.0 * (1.0 + 10.0 * p(2, 1)), 1e-12);
  EXPECT_NEAR(y[3], 3.0 * (1.0 + 100.0 * p(3, 1)), 1e-11);
  EXPECT_NEAR(y[4], 5.0 * (1.0 + 10.0 * p(5, 0)), 1e-11);
}

TEST(SharedKeyValues, LaterPassesAreToldWhichOfTheFirstTokensTheyHave) {
  DepthRun by_expert("recursions_by_expert_choice",
                     {{"recursions", 3}, {"coefficient", 0.0}, {"key_values", "shared"}});
  for (const char* name : {"router_0", "router_1", "router_2"}) by_expert.set(name, {1.0, 0.0});
  (void)by_expert.run({1, 0, 3, 0, 2, 0}, {0, 3});
  EXPECT_EQ(by_expert.seen, (std::vector<std::vector<int32_t>>{{1, 2}, {1}}));
  DepthRun by_token("recursions_by_token_choice", {{"recursions", 3}, {"key_values", "shared"}});
  // Logits (x0, x1, 0): the depths are 0, 2, 1, 2.
  by_token.set("router", {1.0, 0.0, 0.0, 1.0, 0.0, 0.0});
  (void)by_token.run({2, 1, -1, -3, 1, 3, -1, -1}, {0, 4});
  EXPECT_EQ(by_token.visits[2], (std::vector<int32_t>{1, 3}));
  EXPECT_EQ(by_token.seen, (std::vector<std::vector<int32_t>>{{1, 2, 3}, {1, 3}}));
}

TEST(TokenSubset, KeepsDocumentsPositionsAndIds) {
  Pool pool;
  Tape tape(pool);
  const TinyBatch batch = tiny_batch(pool, {{3, 2}, {1, 4}});
  const ForwardContext context = ForwardContext{tape, batch.layout}.with_tokens(batch.tokens);
  const std::vector<uint8_t> chosen{1, 0, 1, 0, 0, 1, 0, 0, 1, 1};
  const auto subset = TokenSubset::of(context, chosen);
  EXPECT_EQ(subset->tokens(), 5);
  EXPECT_EQ(subset->layout.document_offsets, (std::vector<int64_t>{0, 2, 2, 3, 5}));
  EXPECT_EQ(subset->layout.sequence_offsets, (std::vector<int64_t>{0, 2, 5}));
  const auto positions = subset->layout.positions.span<int32_t>();
  EXPECT_EQ(std::vector<int32_t>(positions.begin(), positions.end()),
            (std::vector<int32_t>{0, 2, 0, 2, 3}));
  const auto ids = batch.tokens.span<int32_t>();
  EXPECT_EQ(subset->token_ids, (std::vector<int32_t>{ids[0], ids[2], ids[5], ids[8], ids[9]}));
}

}  // namespace
}  // namespace sluice
