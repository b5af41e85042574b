// What every router must do, by standing in routers.def.

#include <gtest/gtest.h>

#include <set>

#include "autograd/support/parallel.h"
#include "layers/experts/swiglu.h"
#include "tests/layers/routers/routed.h"
#include "tests/support/tiny_model.h"

namespace sluice {
namespace {

using testing::numbers;
using testing::PassOptions;
using testing::Routed;
using testing_support::experts_of;
using testing_support::plain_session;
using testing_support::same_bits;
using testing_support::tiny_batch;
using testing_support::tiny_config;
using testing_support::TinyBatch;
using testing_support::training_context;
using testing_support::zero_grads;

constexpr int64_t kExperts = 8;
constexpr int64_t kWidth = 12;

struct RouterVariant {
  std::string name;
  std::string type;
  nlohmann::json options = nlohmann::json::object();
  friend void PrintTo(const RouterVariant& variant, std::ostream* out) { *out << variant.name; }
};

class EveryRouter : public testing::RouterFixture,
                    public ::testing::WithParamInterface<RouterVariant> {
 protected:
  /// With the defaults of a recipe, k = 2 where the router takes it, else 1.
  void make_it(DType dtype = DType::f64) {
    experts_ = std::make_unique<SwigluExperts>(Builder(pool_, dtype, 1, init_, 1).child("experts"),
                                               ExpertsSetup{kExperts, kWidth, 10});
    const auto config = router_registry().at(GetParam().type).make_config();
    k_ = dynamic_cast<const RouterConfig&>(*config).check_against(kExperts, 2).empty() ? 2 : 1;
    make(GetParam().type, GetParam().options,
         {.experts = kExperts,
          .hidden_size = kWidth,
          .top_k = k_,
          .dtype = dtype,
          .weights_of = experts_.get()});
    // Logits far from equal.
    for (Parameter* parameter : router_->parameters()) {
      if (parameter->value.rank() != 2) continue;
      dispatch_float(dtype, [&]<class T>() {
        for (T& value : parameter->value.span<T>()) value *= T{20};
      });
    }
  }
  [[nodiscard]] Tensor tokens(int64_t count, DType dtype = DType::f64) {
    return SampleFactory(pool_, dtype, 5).uniform({count, kWidth}, -1.0, 1.0);
  }

  std::unique_ptr<SwigluExperts> experts_;
  int64_t k_ = 2;
};

const PassOptions kTraining = {.training = true, .seed = 3};

TEST_P(EveryRouter, ChoosesDistinctExpertsAndWeighsEmptySlotsByZero) {
  make_it();
  for (const bool training : {true, false}) {
    const Routed routed = route(tokens(60), k_, {.training = training, .seed = 3});
    const Selection& selection = routed.selection;
    EXPECT_EQ(selection.tokens, 60);
    EXPECT_EQ(selection.experts, kExperts);
    ASSERT_EQ(selection.expert.size(), static_cast<size_t>(60 * selection.top_k));
    ASSERT_EQ(routed.weights.size(), selection.expert.size());
    for (int64_t t = 0; t < 60; ++t) {
      std::set<int32_t> seen;
      for (int64_t slot = t * selection.top_k; slot < (t + 1) * selection.top_k; ++slot) {
        const int32_t expert = selection.expert[static_cast<size_t>(slot)];
        const double weight = routed.weights[static_cast<size_t>(slot)];
        if (expert == kNoExpert) {
          EXPECT_EQ(weight, 0.0);
          continue;
        }
        EXPECT_TRUE(expert >= 0 && expert < kExperts && seen.insert(expert).second);
        EXPECT_TRUE(std::isfinite(weight) && weight >= 0.0) << weight;
      }
    }
  }
}

TEST_P(EveryRouter, GivesProbabilitiesThatSumToOne) {
  make_it();
  const Routed routed = route(tokens(30), k_, kTraining);
  for (const Tensor& x :
       {routed.scores.logits, routed.scores.scores, routed.scores.probabilities}) {
    EXPECT_EQ(x.shape(), (Shape{30, kExperts}));
  }
  const auto p = numbers(routed.scores.probabilities);
  for (size_t t = 0; t < 30; ++t) {
    double sum = 0.0;
    for (size_t e = 0; e < kExperts; ++e) sum += p[t * kExperts + e];
    EXPECT_NEAR(sum, 1.0, 1e-12);
  }
}

TEST_P(EveryRouter, TakesAShiftPerTokenAsItTakesOnePerExpert) {
  make_it();
  PassOptions per_expert = kTraining;
  for (int64_t e = 0; e < kExperts; ++e) {
    per_expert.shift.push_back(0.1 * static_cast<double>(e * e % 5));
  }
  PassOptions per_token = per_expert;
  for (int64_t t = 1; t < 30; ++t) {
    per_token.shift.insert(per_token.shift.end(), per_expert.shift.begin(), per_expert.shift.end());
  }
  EXPECT_EQ(route(tokens(30), k_, per_token).selection,
            route(tokens(30), k_, per_expert).selection);
  // One that lifts another expert for every token, in routers that hear it.
  for (int64_t t = 0; t < 30; ++t) {
    per_token.shift[static_cast<size_t>(t * kExperts + t % kExperts)] += 9.0;
  }
  const auto config = router_registry().at(GetParam().type).make_config();
  const auto& router = dynamic_cast<const RouterConfig&>(*config);
  const Selection lifted = route(tokens(30), k_, per_token).selection;
  for (int64_t t = 0; t < 30 && !router.is_fixed() && !router.restricts(); ++t) {
    EXPECT_EQ(lifted.expert[static_cast<size_t>(t * lifted.top_k)], t % kExperts) << t;
  }
}

TEST_P(EveryRouter, GradientAgreesWithDifferences) {
  make_it();
  expect_gradient(tokens(6), k_, kTraining);
  expect_gradient(tokens(6), k_);
}

TEST_P(EveryRouter, WorksWithoutTokensAndWithOne) {
  make_it();
  for (const int64_t count : {0, 1}) {
    const Tensor x = tokens(count);
    const Routed routed = route(x, k_, kTraining);
    EXPECT_EQ(routed.selection.tokens, count);
    const std::vector<double> grad(static_cast<size_t>(count * routed.selection.top_k), 1.0);
    EXPECT_EQ(gradient(x, k_, grad, kTraining).size(), static_cast<size_t>(count * kWidth));
  }
}

TEST_P(EveryRouter, WorksInSinglePrecision) {
  make_it(DType::f32);
  const Routed single = route(tokens(20, DType::f32), k_, kTraining);
  EXPECT_EQ(last_weights_.dtype(), DType::f32);
  make_it();
  const Routed exact = route(tokens(20), k_, kTraining);
  for (size_t i = 0; i < exact.weights.size(); ++i) {
    if (single.selection.expert[i] != exact.selection.expert[i]) continue;
    EXPECT_NEAR(single.weights[i], exact.weights[i], 1e-3);
  }
}

TEST_P(EveryRouter, DoesNotDependOnTheNumberOfThreads) {
  const int before = num_threads();
  std::vector<Routed> routed;
  for (const int threads : {1, 2, 3}) {
    set_num_threads(threads);
    make_it(DType::f32);
    routed.push_back(route(tokens(1500, DType::f32), k_, kTraining));
  }
  set_num_threads(before);
  for (size_t i = 1; i < routed.size(); ++i) {
    EXPECT_EQ(routed[i].selection, routed[0].selection);
    EXPECT_EQ(routed[i].weights, routed[0].weights);
  }
}

TEST_P(EveryRouter, RoutesATokenAloneAsAmongItsNeighbours) {
  make_it();
  const Tensor x = tokens(40);
  const Routed together = route(x, k_);
  const auto k = static_cast<size_t>(together.selection.top_k);
  // A router that looks back has a memory, which the tokens before have to go through.
  const auto memory = router_->make_state(pool_, DType::f64, 40);
  for (int64_t t = 0; t < 40; ++t) {
    const Tensor row = Tensor::of<double>(
        pool_, {1, kWidth}, x.span<double>().subspan(static_cast<size_t>(t * kWidth), kWidth));
    layout_ = SequenceLayout::single(pool_, 1, t);
    const Routed alone = route(
        row, k_, {.token_ids = {static_cast<int32_t>(t)}, .memory = memory.get(), .earlier = t});
    for (size_t j = 0; j < k; ++j) {
      const size_t slot = static_cast<size_t>(t) * k + j;
      EXPECT_EQ(alone.selection.expert[j], together.selection.expert[slot]);
      EXPECT_EQ(alone.weights[j], together.weights[slot]);
    }
  }
}

TEST_P(EveryRouter, LooksAtNoLaterTokenInEvaluationAndAtNoOtherDocumentEver) {
  make_it();
  const auto in_two_documents = [&](const Tensor& x, bool training) {
    layout_ = SequenceLayout::single(pool_, 40);
    layout_.document_offsets = {0, 13, 40};
    layout_.document_domains = {0, 0};
    for (int32_t t = 13; t < 40; ++t) layout_.positions.data<int32_t>()[t] = t - 13;
    return route(x, k_, {.training = training, .seed = 3});
  };
  const auto expect_rows = [&](const Routed& a, const Routed& b, int64_t begin, int64_t end) {
    const auto k = static_cast<size_t>(a.selection.top_k);
    for (size_t slot = static_cast<size_t>(begin) * k; slot < static_cast<size_t>(end) * k;
         ++slot) {
      EXPECT_EQ(a.selection.expert[slot], b.selection.expert[slot]) << slot;
      EXPECT_EQ(a.weights[slot], b.weights[slot]) << slot;
    }
  };
  const auto changed = [&](int64_t begin, int64_t end) {
    Tensor x = tokens(40);
    for (int64_t i = begin * kWidth; i < end * kWidth; ++i) x.data<double>()[i] *= -1.7;
    return x;
  };
  const Routed evaluated = in_two_documents(tokens(40), false);
  expect_rows(in_two_documents(changed(25, 40), false), evaluated, 0, 25);
  for (const bool training : {false, true}) {
    const Routed plain = in_two_documents(tokens(40), training);
    expect_rows(in_two_documents(changed(0, 13), training), plain, 13, 40);
    expect_rows(in_two_documents(changed(13, 40), training), plain, 0, 13);
  }
}

TEST_P(EveryRouter, ChangesNothingByRouting) {
  make_it();
  const auto parameters = [&] {
    std::vector<double> all;
    for (const Parameter* parameter : router_->parameters()) {
      const auto values = numbers(parameter->value);
      all.insert(all.end(), values.begin(), values.end());
    }
    return all;
  };
  const auto before = parameters();
  const Routed first = route(tokens(30), k_, kTraining);
  const Routed again = route(tokens(30), k_, kTraining);
  EXPECT_EQ(first.selection, again.selection);
  EXPECT_EQ(first.weights, again.weights);
  EXPECT_EQ(parameters(), before);
}

/// The model section that the tests train: every layer an expert layer of this router.
ModelConfig model_of(const RouterVariant& variant, const std::string& dtype) {
  ModelConfig config = tiny_config("AEAE", dtype);
  auto router = router_registry().at(variant.type).make_config();
  testing::set_fields(*router, variant.options);
  const bool takes_two = dynamic_cast<const RouterConfig&>(*router).check_against(4, 2).empty();
  experts_of(config).top_k = takes_two ? 2.0 : 1.0;
  experts_of(config).router = {variant.type, std::shared_ptr<Configurable>(std::move(router))};
  return config;
}

/// Gradients of one step.
std::vector<Tensor> train(Pool& pool, const RouterVariant& variant, Recompute recompute) {
  const Model model(pool, model_of(variant, "f32"), 1);
  zero_grads(model, pool);
  const TinyBatch batch = tiny_batch(pool, {{9, 14}, {23}});
  Tape tape(pool);
  RoutingSession session = plain_session(model);
  const ForwardContext context = training_context(tape, batch, session, recompute);
  const Model::Loss loss = model.loss(context, batch.tokens, batch.targets);
  EXPECT_TRUE(std::isfinite(loss.language_model));
  tape.backward(loss.total);
  std::vector<Tensor> grads;
  for (Parameter* parameter : model.parameters()) {
    if (!parameter->trainable) continue;
    parameter->materialise_grad();
    grads.push_back(parameter->grad.clone(pool));
  }
  return grads;
}

TEST_P(EveryRouter, TrainsAModelWithTheSameBitsWhenRecomputed) {
  const auto once = train(pool_, GetParam(), Recompute::none);
  const auto twice = train(pool_, GetParam(), Recompute::all);
  ASSERT_EQ(once.size(), twice.size());
  for (size_t i = 0; i < once.size(); ++i) {
    EXPECT_TRUE(same_bits(once[i], twice[i]));
    for (const float grad : once[i].span<float>()) ASSERT_TRUE(std::isfinite(grad));
  }
}

TEST_P(EveryRouter, DecodesWhatItEvaluates) {
  const Model model(pool_, model_of(GetParam(), "f64"), 1);
  const TinyBatch batch = tiny_batch(pool_, {{9}});
  Tape tape(pool_);
  const NoGrad no_grad(tape);
  RoutingSession session = plain_session(model);
  session.begin_evaluation();
  ForwardContext context{tape, batch.layout};
  context.routing = &session;
  const Tensor whole = model.forward(context, batch.tokens).hidden;
  DecodeState state = model.start_decoding(pool_, 9);
  for (int64_t t = 0; t < 9; ++t) {
    const SequenceLayout layout = SequenceLayout::single(pool_, 1, t);
    ForwardContext step{tape, layout};
    step.routing = &session;
    const Tensor token = Tensor::of<int32_t>(
        pool_, {1}, batch.tokens.span<int32_t>().subspan(static_cast<size_t>(t), 1));
    const auto hidden = numbers(model.decode(step, token, state));
    for (size_t d = 0; d < hidden.size(); ++d) {
      EXPECT_NEAR(hidden[d], whole.data<double>()[t * whole.dim(1) + static_cast<int64_t>(d)],
                  1e-10);
    }
  }
  session.end_evaluation();
}

TEST_P(EveryRouter, RecordsTheSameOnShapesAlone) {
  const auto ops_of = [&](Pool& pool) {
    const Model model(pool, model_of(GetParam(), "f32"), 1);
    zero_grads(model, pool);
    TinyBatch batch = tiny_batch(pool_, {{9, 14}, {23}});
    if (pool.shapes_only()) {
      batch.layout.positions = Tensor::zeros(pool, batch.tokens.shape(), DType::i32);
      batch.tokens = Tensor::zeros(pool, batch.tokens.shape(), DType::i32);
      batch.targets = Tensor::zeros(pool, batch.targets.shape(), DType::i32);
    }
    Tape tape(pool);
    RoutingSession session = plain_session(model);
    const ForwardContext context = training_context(tape, batch, session);
    (void)model.loss(context, batch.tokens, batch.targets);
    return tape.recorded_ops();
  };
  Pool shapes(Pool::Mode::shapes_only);
  EXPECT_EQ(ops_of(shapes), ops_of(pool_));
}

std::vector<RouterVariant> variants() {
  std::vector<RouterVariant> result;
  for (const Choice& choice : router_choices()) {
    result.push_back({std::string(choice.name), std::string(choice.name)});
  }
  result.push_back({"short_chunks", "chunk_top_k", {{"chunk_size", 4}}});
  result.push_back({"thor_average", "thor", {{"evaluation", "average"}}});
  return result;
}

INSTANTIATE_TEST_SUITE_P(RoutersDef, EveryRouter, ::testing::ValuesIn(variants()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace sluice
