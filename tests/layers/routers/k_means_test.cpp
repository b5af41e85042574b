#include "tests/layers/routers/routed.h"
#include "tests/support/tiny_model.h"

namespace sluice {
namespace {

using testing_support::experts_of;
using testing_support::plain_session;
using testing_support::tiny_batch;
using testing_support::tiny_config;
using testing_support::TinyBatch;
using testing_support::training_context;
using testing_support::zero_grads;

class KMeans : public testing::RouterFixture {
 protected:
  void make_example(const nlohmann::json& options) {
    make("k_means", options, {.experts = 2, .top_k = 1});
    set("centroids", {1.0, 0.0, 0.0, 1.0});
  }
  [[nodiscard]] Tensor example() { return rows({3.0, 1.0, 1.0, 2.0, .9, 1.0}, 2); }

  /// One step of learning from `x`.
  void learn(const Tensor& x, int64_t k, const std::vector<uint8_t>& counted = {}) {
    Tape tape(pool_);
    const NoGrad no_grad(tape);
    prepare(x.dim(0), {});
    if (!counted.empty()) layout_.counted = counted;
    const Routed routed = route_on(tape, x, k);
    std::vector<double> sums(static_cast<size_t>(router_->num_sums()), 0.0);
    router_->add_sums(context_of(tape, {}), x, routed.selection, sums);
    router_->end_step(sums, {});
  }
  using Routed = testing::Routed;
};

TEST_F(KMeans, ScoresByTheCosine) {
  make_example({});
  const auto routed = route(example(), 1);
  EXPECT_EQ(routed.selection.expert, (std::vector<int32_t>{0, 1, 1}));
  const auto cosines = testing::numbers(routed.scores.scores);
  const std::vector<double> expected = {.948683, .316228, .447214, .894427, .668965, .743294};
  for (size_t i = 0; i < 6; ++i) EXPECT_NEAR(cosines[i], expected[i], testing::kPrinted);
}

TEST_F(KMeans, CentroidsMoveTowardsTheirMembers) {
  make_example({{"decay", 0.9}});
  learn(example(), 1);
  const auto centroids = testing::numbers(parameter("centroids").value);
  const std::vector<double> expected = {.994868, .031623, .055809, .981886};
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(centroids[i], expected[i], testing::kPrinted);
}

TEST_F(KMeans, AnExpertWithoutTokensStaysAndTokensWithoutALossDoNotCount) {
  make_example({{"decay", 0.5}});
  learn(example(), 1, {1, 0, 0});
  const auto centroids = testing::numbers(parameter("centroids").value);
  EXPECT_NEAR(centroids[0], 0.5 + 0.5 * .948683, testing::kPrinted);
  EXPECT_EQ(centroids[2], 0.0);
  EXPECT_EQ(centroids[3], 1.0);
}

TEST_F(KMeans, AveragesRawTokensWhereAsked) {
  make_example({{"decay", 0.0}, {"features", "raw"}});
  learn(example(), 1);
  EXPECT_EQ(testing::numbers(parameter("centroids").value),
            (std::vector<double>{3.0, 1.0, (1.0 + .9) / 2.0, 1.5}));
}

TEST_F(KMeans, KeepsItsCentroidsWhenASumIsNotFinite) {
  make_example({});
  std::vector<double> sums(static_cast<size_t>(router_->num_sums()), 1.0);
  sums[1] = std::numeric_limits<double>::quiet_NaN();
  router_->end_step(sums, {});
  EXPECT_EQ(testing::numbers(parameter("centroids").value),
            (std::vector<double>{1.0, 0.0, 0.0, 1.0}));
}

TEST_F(KMeans, HasNothingToTrainAndStartsWithDirections) {
  make("k_means", {}, {.experts = 6, .hidden_size = 5});
  for (const Parameter* p : router_->parameters()) EXPECT_FALSE(p->trainable);
  const auto centroids = testing::numbers(parameter("centroids").value);
  for (size_t e = 0; e < 6; ++e) {
    double squares = 0.0;
    for (size_t d = 0; d < 5; ++d) squares += std::pow(centroids[5 * e + d], 2);
    EXPECT_NEAR(squares, 1.0, 1e-14);
    EXPECT_NE(centroids[5 * e], centroids[5 * ((e + 1) % 6)]);
  }
}

TEST_F(KMeans, DoesNotSeeTheSizeOfATokenNorOfACentroid) {
  make("k_means", {}, {.experts = 6, .hidden_size = 5});
  const Tensor x = random_rows(10, 5);
  std::vector<double> scaled = testing::numbers(x);
  for (double& value : scaled) value *= 11.0;
  const auto one = testing::numbers(route(x, 2).scores.scores);
  const auto other = testing::numbers(route(rows(scaled, 5), 2).scores.scores);
  std::vector<double> centroids = testing::numbers(parameter("centroids").value);
  for (double& value : centroids) value *= 0.01;
  set("centroids", centroids);
  const auto smaller = testing::numbers(route(x, 2).scores.scores);
  for (size_t i = 0; i < one.size(); ++i) {
    EXPECT_NEAR(one[i], other[i], 1e-14);
    EXPECT_NEAR(one[i], smaller[i], 1e-12);
  }
}

TEST_F(KMeans, GradientAgreesWithDifferences) {
  make("k_means", {}, {.experts = 6, .hidden_size = 5, .top_k = 3});
  expect_gradient(random_rows(6, 5), 3);
  make("k_means", {{"weights", "uniform"}}, {.experts = 6, .hidden_size = 5, .top_k = 3});
  expect_gradient(random_rows(6, 5), 3);
  for (const double weight : route(random_rows(2, 5), 3).weights) EXPECT_EQ(weight, 1.0 / 3.0);
}

/// The centroids of a tiny model after one step on `parts`, cut so.
std::vector<double> centroids_after(Pool& pool, const std::vector<TinyBatch>& parts,
                                    Recompute recompute = Recompute::none, bool count = false) {
  ModelConfig config = tiny_config("AE", "f64");
  const RouterEntry& entry = router_registry().at("k_means");
  auto router = entry.make_config();
  testing::set_fields(*router, {{"decay", 0.5}});
  experts_of(config).router = {"k_means", std::shared_ptr<Configurable>(std::move(router))};
  Model model(pool, config, 1);
  zero_grads(model, pool);
  RoutingSession session = plain_session(model);
  SingleRank communicator;
  session.begin_step(static_cast<int64_t>(parts.size()));
  for (const bool counting : {true, false}) {
    if (counting && !count) continue;
    if (counting) session.begin_counting();
    for (size_t i = 0; i < parts.size(); ++i) {
      session.begin_micro_batch(static_cast<int64_t>(i));
      Tape tape(pool);
      ForwardContext context{tape, parts[i].layout};
      context.routing = &session;
      context.training = true;
      context.recompute = recompute;
      context.valid_tokens = 40;
      if (counting) {
        const NoGrad no_grad(tape);
        (void)model.forward(context, parts[i].tokens);
      } else {
        const Model::Loss loss = model.loss(context, parts[i].tokens, parts[i].targets);
        tape.backward(loss.total);
      }
    }
    if (counting) session.end_counting(communicator);
  }
  session.finish_loads(communicator);
  session.end_step({});
  model.end_step(session, {});
  for (const Parameter* parameter : model.parameters()) {
    if (parameter->name == "layers.1.router.centroids") return testing::numbers(parameter->value);
  }
  return {};
}

TEST_F(KMeans, LearnsTheSameFromAnyCutOfTheBatchAndOnceFromEachToken) {
  const TinyBatch whole = tiny_batch(pool_, {{9, 14}, {23}});
  const auto once = centroids_after(pool_, {whole});
  ASSERT_EQ(once.size(), 4U * 32U);
  const auto cut =
      centroids_after(pool_, {tiny_batch(pool_, {{9, 14}}), tiny_batch(pool_, {{23}}, 64, 1)});
  for (size_t i = 0; i < once.size(); ++i) EXPECT_NEAR(once[i], cut[i], 1e-12);
  EXPECT_EQ(centroids_after(pool_, {whole}, Recompute::all), once);
  EXPECT_EQ(centroids_after(pool_, {whole}, Recompute::none, true), once);
}

TEST_F(KMeans, IsMotivatedByRouterAndExpertsLearningAlongTheSameToken) {
  // Geometric coupling: for one token, the gradient of a chosen expert's router row and of each of
  // its neurons' input weights are multiples of the token.
  ModelConfig config = tiny_config("AE", "f64");
  const Model model(pool_, config, 1);
  zero_grads(model, pool_);
  const TinyBatch batch = tiny_batch(pool_, {{2}});  // the second token has no loss
  Tape tape(pool_);
  RoutingSession session = plain_session(model);
  const ForwardContext context = training_context(tape, batch, session);
  tape.backward(model.loss(context, batch.tokens, batch.targets).total);
  std::vector<double> router;
  std::vector<double> gate;
  for (Parameter* p : model.parameters()) {
    p->materialise_grad();
    if (p->name == "layers.1.router.weight") router = testing::numbers(p->grad);
    if (p->name == "layers.1.experts.w_gate") gate = testing::numbers(p->grad);
  }
  int compared = 0;
  for (size_t e = 0; e < 4; ++e) {
    for (size_t f = 0; f < 24; ++f) {
      double dot = 0.0;
      double of_router = 0.0;
      double of_gate = 0.0;
      for (size_t d = 0; d < 32; ++d) {
        const double a = router[e * 32 + d];
        const double b = gate[(e * 24 + f) * 32 + d];
        dot += a * b;
        of_router += a * a;
        of_gate += b * b;
      }
      if (of_router == 0.0 || of_gate == 0.0) continue;
      EXPECT_NEAR(std::abs(dot) / std::sqrt(of_router * of_gate), 1.0, 1e-9);
      ++compared;
    }
  }
  EXPECT_EQ(compared, 2 * 24);
}

}  // namespace
}  // namespace sluice
