#include "layers/routing_session.h"

#include <gtest/gtest.h>

#include "autograd/support/error.h"
#include "tests/support/error_of.h"
#include "tests/support/thread_ranks.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;

/// Two experts, k = 1. Counts what it is asked; its state counts routes, and a `flighty` one routes
/// by it.
class CountingBalancer final : public Balancer {
 public:
  explicit CountingBalancer(BalancerTraits traits = {}, bool flighty = false)
      : traits_(traits), flighty_(flighty) {}
  [[nodiscard]] BalancerTraits traits() const override { return traits_; }
  void end_step(const LayerLoad& load, const Progress&) override { learned_ = load; }
  void visit_state(StateVisitor& visitor) override { visitor.integer("routes", routes_); }

  /// What the expert layer does through `make`: all `tokens` go to one expert.
  void choose(int64_t tokens, int32_t expert, Selection& selection) {
    if (flighty_ && routes_++ % 2 == 1) expert = 1 - expert;
    selection.tokens = tokens;
    selection.experts = 2;
    selection.top_k = 1;
    selection.expert.assign(static_cast<size_t>(tokens), expert);
    selection.count_load(std::vector<uint8_t>(static_cast<size_t>(tokens), 1));
    ++calls_;
  }
  [[nodiscard]] int64_t calls() const { return calls_; }
  [[nodiscard]] int64_t routes() const { return routes_; }
  [[nodiscard]] const LayerLoad& learned() const { return learned_; }
  void set_routes(int64_t routes) { routes_ = routes; }

 private:
  BalancerTraits traits_;
  bool flighty_;
  int64_t routes_ = 0;
  int64_t calls_ = 0;
  LayerLoad learned_;
};

constexpr BalancerTraits kWantsCounts = {.needs_global_counts = true};

/// A session over balancers that the test keeps hold of.
struct Fixture {
  explicit Fixture(int layers, BalancerTraits traits = {}, bool flighty = false) {
    std::vector<std::unique_ptr<Balancer>> made;
    for (int i = 0; i < layers; ++i) {
      auto balancer = std::make_unique<CountingBalancer>(traits, flighty);
      balancers.push_back(balancer.get());
      made.push_back(std::move(balancer));
    }
    session = std::make_unique<RoutingSession>(std::move(made));
  }
  const Selection& select(int64_t layer, int64_t tokens, int32_t expert, bool replay = false) {
    return session->select(layer, replay, tokens, [&](Balancer& balancer, Selection& selection) {
      dynamic_cast<CountingBalancer&>(balancer).choose(tokens, expert, selection);
    });
  }
  std::vector<CountingBalancer*> balancers;
  std::unique_ptr<RoutingSession> session;
  SingleRank communicator;
};

/// What two ranks see together when the other one contributes `other` to the sums, in order.
class FakeRanks final : public Communicator {
 public:
  explicit FakeRanks(std::vector<std::vector<int64_t>> other) : other_(std::move(other)) {}
  [[nodiscard]] int rank() const override { return 0; }
  [[nodiscard]] int size() const override { return 2; }
  void sum(std::span<double>) override {}
  void sum(std::span<float>) override {}
  void sum(std::span<int64_t> values) override {
    ASSERT_LT(next_, other_.size());
    const auto& contribution = other_[next_++];
    ASSERT_EQ(values.size(), contribution.size());
    for (size_t i = 0; i < values.size(); ++i) values[i] += contribution[i];
  }
  void barrier() override {}

 private:
  std::vector<std::vector<int64_t>> other_;
  size_t next_ = 0;
};

template <class Call>
std::string internal_error(Call&& call) {
  return testing::error_of<InternalError>([&] { call(); });
}

TEST(Selection, CountsOnlyMarkedTokensAndFilledSlots) {
  Selection selection{.tokens = 3, .experts = 3, .top_k = 2, .expert = {0, 1, 2, kNoExpert, 0, 2}};
  const std::vector<uint8_t> counted = {1, 1, 0};
  selection.count_load(counted);
  EXPECT_EQ(selection.load, (std::vector<int64_t>{1, 1, 1}));
}

TEST(Selection, RefusesMarksOfAnotherBatch) {
  Selection selection{.tokens = 2, .experts = 3, .top_k = 1, .expert = {0, 1}};
  EXPECT_THROW(selection.count_load(std::vector<uint8_t>{1}), InternalError);
}

TEST(LayerLoad, AddsSelections) {
  LayerLoad load;
  load.add({.tokens = 3, .experts = 2, .top_k = 1, .expert = {}, .load = {2, 1}, .dropped = 1}, 3);
  load.add({.tokens = 2, .experts = 2, .top_k = 1, .expert = {}, .load = {0, 1}}, 1);
  EXPECT_EQ(load, (LayerLoad{.counts = {2, 2}, .dropped = 1, .tokens = 4, .top_k = 1}));
}

TEST(RoutingSession, AddsTheLoadsOfAllMicroBatches) {
  Fixture f(2);
  f.session->begin_step(2);
  for (int32_t i = 0; i < 2; ++i) {
    f.session->begin_micro_batch(i);
    (void)f.select(0, 3, i);
    (void)f.select(1, 3, 0);
  }
  f.session->finish_loads(f.communicator);
  EXPECT_EQ(f.session->loads()[0].counts, (std::vector<int64_t>{3, 3}));
  EXPECT_EQ(f.session->loads()[1].counts, (std::vector<int64_t>{6, 0}));
  EXPECT_EQ(f.session->loads()[0].tokens, 6);
  f.session->end_step({});
  EXPECT_EQ(f.balancers[1]->learned(), f.session->loads()[1]);
}

TEST(RoutingSession, ShowsTheLoadOfTheStepSoFar) {
  Fixture f(1);
  for (int step = 0; step < 2; ++step) {
    f.session->begin_step(2);
    f.session->begin_micro_batch(0);
    (void)f.select(0, 3, 0);
    EXPECT_EQ(f.session->step_load(0)->counts, (std::vector<int64_t>{3, 0}));
    (void)f.select(0, 3, 0, /*replay=*/true);
    f.session->begin_micro_batch(1);
    (void)f.select(0, 2, 1);
    EXPECT_EQ(f.session->step_load(0)->counts, (std::vector<int64_t>{3, 2}));
    f.session->finish_loads(f.communicator);
  }
  f.session->begin_evaluation();
  EXPECT_EQ(f.session->step_load(0), nullptr);
  f.session->end_evaluation();
}

TEST(RoutingSession, ForgetsTheLoadsOfTheStepBefore) {
  Fixture f(1);
  for (int step = 0; step < 2; ++step) {
    f.session->begin_step(1);
    (void)f.select(0, 4, step);
    f.session->finish_loads(f.communicator);
  }
  EXPECT_EQ(f.session->loads()[0].counts, (std::vector<int64_t>{0, 4}));
}

TEST(RoutingSession, ReplaysTheRecordAndCountsItOnce) {
  Fixture f(1);
  f.session->begin_step(1);
  const Selection made = f.select(0, 3, 1);
  const Selection& replayed = f.select(0, 3, 0, /*replay=*/true);
  EXPECT_EQ(replayed, made);
  EXPECT_EQ(f.balancers[0]->calls(), 1);
  f.session->finish_loads(f.communicator);
  EXPECT_EQ(f.session->loads()[0].counts, (std::vector<int64_t>{0, 3}));
}

TEST(RoutingSession, ReplaysTheSelectionOfTheRightMicroBatch) {
  Fixture f(1);
  f.session->begin_step(2);
  for (int32_t i = 0; i < 2; ++i) {
    f.session->begin_micro_batch(i);
    (void)f.select(0, 2, i);
  }
  for (int32_t i = 0; i < 2; ++i) {
    f.session->begin_micro_batch(i);
    EXPECT_EQ(f.select(0, 2, 0, /*replay=*/true).expert, (std::vector<int32_t>{i, i}));
  }
}

TEST(RoutingSession, RefusesToReplayWhatWasNotMadeAndToMakeTwice) {
  Fixture f(1);
  f.session->begin_step(1);
  EXPECT_THAT(internal_error([&] { (void)f.select(0, 2, 0, /*replay=*/true); }),
              HasSubstr("no selection of micro-batch 0, expert layer 0 to replay"));
  (void)f.select(0, 2, 0);
  EXPECT_THAT(internal_error([&] { (void)f.select(0, 2, 0); }),
              HasSubstr("micro-batch 0 routes twice through expert layer 0"));
}

/// Sends everything to one expert.
class Everything final : public RouteSource {
 public:
  bool choose(const RouteRequest& /*request*/, Selection& /*selection*/) override { return true; }
};

TEST(RoutingSession, CountsNoSelectionOfATrial) {
  Fixture f(1);
  Everything outer;
  Everything inner;
  const RouteSourceScope replayed(*f.session, &outer);
  f.session->begin_step(1);
  const Selection made = f.select(0, 3, 1);
  {
    const TrialScope trial(*f.session, inner);
    EXPECT_EQ(f.session->source(), &inner);
    EXPECT_EQ(f.select(0, 5, 0).expert, std::vector<int32_t>(5, 0));
    EXPECT_EQ(f.select(0, 5, 1).expert, std::vector<int32_t>(5, 1));
  }
  EXPECT_EQ(f.session->source(), &outer);
  EXPECT_EQ(f.select(0, 3, 0, /*replay=*/true), made);
  f.session->finish_loads(f.communicator);
  EXPECT_EQ(f.session->loads()[0].counts, (std::vector<int64_t>{0, 3}));
  f.session->begin_evaluation();
  EXPECT_THAT(internal_error([&] { const TrialScope trial(*f.session, inner); }),
              HasSubstr("a trial begins outside the ordinary pass"));
  f.session->end_evaluation();
}

TEST(RoutingSession, NeedsACountingPassOnlyForMoreThanOneMicroBatchOrRank) {
  Fixture wants(1, kWantsCounts);
  wants.session->begin_step(1);
  EXPECT_FALSE(wants.session->needs_counting_pass());
  wants.session->begin_step(2);
  EXPECT_TRUE(wants.session->needs_counting_pass());
  wants.session->begin_step(1, /*ranks=*/2);
  EXPECT_TRUE(wants.session->needs_counting_pass());
  Fixture does_not(1);
  does_not.session->begin_step(2);
  EXPECT_FALSE(does_not.session->needs_counting_pass());
}

/// Runs the counting pass over two micro-batches that go to experts 0 and 1.
void count_two(Fixture& f) {
  f.session->begin_step(2);
  f.session->begin_counting();
  for (int32_t i = 0; i < 2; ++i) {
    f.session->begin_micro_batch(i);
    (void)f.select(0, 3, i);
  }
  f.session->end_counting(f.communicator);
}

TEST(RoutingSession, ShowsTheCountedLoadToEveryMicroBatch) {
  Fixture f(1, kWantsCounts);
  count_two(f);
  for (int32_t i = 0; i < 2; ++i) {
    f.session->begin_micro_batch(i);
    (void)f.select(0, 3, i);
    ASSERT_NE(f.session->global_load(0), nullptr);
    EXPECT_EQ(f.session->global_load(0)->counts, (std::vector<int64_t>{3, 3}));
  }
  f.session->finish_loads(f.communicator);
  EXPECT_EQ(f.session->loads()[0].counts, (std::vector<int64_t>{3, 3}));
}

TEST(RoutingSession, ShowsTheLoadOfTheOnlyMicroBatchWithoutACountingPass) {
  Fixture f(1, kWantsCounts);
  f.session->begin_step(1);
  (void)f.select(0, 3, 1);
  ASSERT_NE(f.session->global_load(0), nullptr);
  EXPECT_EQ(f.session->global_load(0)->counts, (std::vector<int64_t>{0, 3}));
}

TEST(RoutingSession, ShowsNoLoadToMethodsThatDoNotWantIt) {
  Fixture f(1);
  f.session->begin_step(1);
  (void)f.select(0, 3, 1);
  EXPECT_EQ(f.session->global_load(0), nullptr);
}

TEST(RoutingSession, RestoresTheBalancersAfterTheCountingPass) {
  Fixture f(1, kWantsCounts, /*flighty=*/true);
  f.balancers[0]->set_routes(5);
  count_two(f);
  EXPECT_EQ(f.balancers[0]->routes(), 5);
  // The ordinary pass then makes the same choices, flighty or not.
  for (int32_t i = 0; i < 2; ++i) {
    f.session->begin_micro_batch(i);
    (void)f.select(0, 3, i);
  }
  f.session->finish_loads(f.communicator);
  EXPECT_EQ(f.balancers[0]->routes(), 7);
}

TEST(RoutingSession, ReportsAnOrdinaryPassThatRoutesDifferently) {
  Fixture f(1, kWantsCounts);
  count_two(f);
  for (int32_t i = 0; i < 2; ++i) {
    f.session->begin_micro_batch(i);
    (void)f.select(0, 3, 0);
  }
  EXPECT_THAT(internal_error([&] { f.session->finish_loads(f.communicator); }),
              HasSubstr("expert layer 0: the counting pass found the load [3, 3], the ordinary "
                        "pass [6, 0]"));
}

TEST(RoutingSession, ReportsACountingPassThatWasLeftOut) {
  Fixture f(1, kWantsCounts);
  f.session->begin_step(2);
  for (int32_t i = 0; i < 2; ++i) {
    f.session->begin_micro_batch(i);
    (void)f.select(0, 3, 0);
    EXPECT_EQ(f.session->global_load(0), nullptr);
  }
  EXPECT_THAT(internal_error([&] { f.session->finish_loads(f.communicator); }),
              HasSubstr("the counting pass of 2 micro-batches on 1 ranks was left out"));
}

TEST(RoutingSession, ReportsALayerThatRoutedNothing) {
  Fixture f(2);
  f.session->begin_step(1);
  (void)f.select(0, 3, 0);
  EXPECT_THAT(internal_error([&] { f.session->finish_loads(f.communicator); }),
              HasSubstr("expert layer 1 routed nothing"));
}

TEST(RoutingSession, CountsEvaluationApartFromTraining) {
  Fixture f(1);
  f.session->begin_step(1);
  (void)f.select(0, 3, 0);
  f.session->finish_loads(f.communicator);
  f.session->begin_evaluation();
  EXPECT_TRUE(f.session->evaluating());
  for (int batch = 0; batch < 2; ++batch) (void)f.select(0, 5, 1);
  EXPECT_EQ(f.session->global_load(0), nullptr);
  f.session->reduce_eval_loads(f.communicator);
  f.session->end_evaluation();
  EXPECT_EQ(f.session->eval_loads()[0].counts, (std::vector<int64_t>{0, 10}));
  EXPECT_EQ(f.session->loads()[0].counts, (std::vector<int64_t>{3, 0}));
  f.session->begin_evaluation();
  EXPECT_TRUE(f.session->eval_loads()[0].counts.empty());
  f.session->end_evaluation();
}

TEST(RoutingSession, RefusesAStepInsideAnEvaluation) {
  Fixture f(1);
  f.session->begin_evaluation();
  EXPECT_THROW(f.session->begin_step(1), InternalError);
  EXPECT_THROW(f.session->begin_evaluation(), InternalError);
  f.session->end_evaluation();
  EXPECT_THROW(f.session->end_evaluation(), InternalError);
}

TEST(RoutingSession, SumsLoadsOverRanks) {
  Fixture f(1);
  f.session->begin_step(1, /*ranks=*/2);
  (void)f.select(0, 3, 0);
  // Sizes (ranks that routed, E, k, unbiased E), then counts, drops and tokens.
  FakeRanks ranks({{1, 2, 1, 0}, {1, 4, 2, 5}});
  f.session->finish_loads(ranks);
  EXPECT_EQ(f.session->loads()[0],
            (LayerLoad{.counts = {4, 4}, .dropped = 2, .tokens = 8, .top_k = 1}));
}

TEST(RoutingSession, SumsUnbiasedLoadsOverMicroBatchesAndRanks) {
  Fixture f(1);
  f.session->begin_step(2, /*ranks=*/2);
  for (int64_t i = 0; i < 2; ++i) {
    f.session->begin_micro_batch(i);
    (void)f.session->select(0, false, 3, [](Balancer&, Selection& made) {
      made.load = {3, 0};
      made.unbiased_load = {1, 2};
    });
  }
  FakeRanks ranks({{1, 2, 1, 2}, {1, 4, 2, 5, 3, 2}});
  f.session->finish_loads(ranks);
  EXPECT_EQ(f.session->loads()[0].counts, (std::vector<int64_t>{7, 4}));
  EXPECT_EQ(f.session->loads()[0].unbiased, (std::vector<int64_t>{5, 6}));
}

TEST(RoutingSession, SharesRunningLoadsWhereABalancerWantsThem) {
  constexpr BalancerTraits kWantsRunning = {.needs_running_counts = true};
  for (const bool wants : {false, true}) {
    testing::ThreadRanks::run(3, [&](Communicator& communicator) {
      // Rank r has 1 + r micro-batches of 10^r tokens, of which the last is its heaviest.
      const int64_t rank = communicator.rank();
      const int64_t own = rank == 0 ? 1 : rank == 1 ? 10 : 100;
      Fixture f(2, wants ? kWantsRunning : BalancerTraits{});
      for (int step = 0; step < 2; ++step) {
        f.session->begin_step(1 + rank, communicator.size());
        f.session->share_running_loads(communicator);
        const std::vector<int64_t> added = {111, 110, 100};
        int64_t of_all = 0;
        for (int64_t i = 0; i < 1 + rank; ++i) {
          f.session->begin_micro_batch(i);
          of_all += added[static_cast<size_t>(i)];
          for (int64_t layer = 0; layer < 2; ++layer) {
            (void)f.select(layer, own, 1);
            const LayerLoad& running = *f.session->step_load(layer);
            EXPECT_EQ(running.counts, (std::vector<int64_t>{0, wants ? of_all : own * (i + 1)}));
            EXPECT_EQ(running.tokens, running.counts[1]);
          }
          // Recomputed: neither counted nor summed again.
          (void)f.select(0, own, 1, /*replay=*/true);
        }
        f.session->finish_loads(communicator);
        EXPECT_EQ(f.session->loads()[1].counts, (std::vector<int64_t>{0, 321}));
      }
    });
  }
}

TEST(RoutingSession, TakesPartInSumsWithoutALoadOfItsOwn) {
  Fixture f(1);
  f.session->begin_evaluation();
  FakeRanks ranks({{1, 3, 2, 0}, {1, 4, 1, 0, 3}});
  f.session->reduce_eval_loads(ranks);
  EXPECT_EQ(f.session->eval_loads()[0],
            (LayerLoad{.counts = {1, 4, 1}, .dropped = 0, .tokens = 3, .top_k = 2}));
}

TEST(RoutingSession, OfADenseModelHasNothingToDo) {
  RoutingSession session({});
  SingleRank communicator;
  session.begin_step(4);
  EXPECT_FALSE(session.needs_counting_pass());
  session.finish_loads(communicator);
  session.end_step({});
  EXPECT_TRUE(session.loads().empty());
  EXPECT_FALSE(session.batch_dependent());
}

TEST(RoutingSession, KeepsTheStateOfEachLayerUnderItsNumber) {
  Fixture f(2);
  f.balancers[1]->set_routes(7);
  SaveVisitor save;
  f.session->visit_state(save);
  const StateDict state = save.take();
  EXPECT_EQ(state.at("0/routes").values<int64_t>()[0], 0);
  EXPECT_EQ(state.at("1/routes").values<int64_t>()[0], 7);
}

TEST(RoutingSession, SumsWhatLayersLearnFromInTheOrdinaryPassOnly) {
  testing::ThreadRanks::run(2, [](Communicator& communicator) {
    Fixture fixture(1);
    RoutingSession& session = *fixture.session;
    session.begin_step(1, communicator.size());
    session.begin_micro_batch(0);
    (void)fixture.select(0, 3, 0);
    session.layer_sums(5, 2)[1] += communicator.rank() + 1;
    session.finish_loads(communicator);
    EXPECT_EQ(session.layer_sums(5, 2)[0], 0.0);
    EXPECT_EQ(session.layer_sums(5, 2)[1], 3.0);
    session.begin_evaluation();
    EXPECT_TRUE(session.layer_sums(5, 2).empty());
    session.end_evaluation();
    session.begin_step(1, communicator.size());
    EXPECT_EQ(session.layer_sums(5, 2)[1], 0.0);
  });
}

TEST(RoutingSession, SumsWhatRoutersLearnFromOverRanksAndForgetsItAtTheNextStep) {
  testing::ThreadRanks::run(2, [](Communicator& communicator) {
    Fixture fixture(1);
    RoutingSession& session = *fixture.session;
    session.begin_step(2, communicator.size());
    for (int64_t i = 0; i < 2; ++i) {
      session.begin_micro_batch(i);
      (void)fixture.select(0, 3, 0);
      const std::span<double> sums = session.router_sums(0, 2);
      sums[0] += 1.0;
      sums[1] += 10.0 * (communicator.rank() + 1);
    }
    session.finish_loads(communicator);
    EXPECT_EQ(session.router_sums(0, 2)[0], 4.0);
    EXPECT_EQ(session.router_sums(0, 2)[1], 60.0);
    session.begin_step(1, communicator.size());
    EXPECT_EQ(session.router_sums(0, 2)[1], 0.0);
  });
}

}  // namespace
}  // namespace sluice
