#include <gtest/gtest.h>

#include <cmath>

#include "layers/routing_session.h"
#include "tests/balance/routed_batch.h"
#include "tests/support/thread_ranks.h"

namespace sluice {
namespace {

using testing::f1_logits;
using testing::layout_of;
using testing::load_of;
using testing::make_one;
using testing::RoutedBatch;

class GlobalAuxLoss : public ::testing::Test {
 protected:
  Tensor rows(const std::vector<double>& values) {
    return Tensor::of<double>(pool_, {static_cast<int64_t>(values.size()) / 4, 4}, values);
  }
  Tensor log_rows(std::vector<double> p) {
    for (double& x : p) x = std::log(x);
    return rows(p);
  }
  Pool pool_;
};

TEST_F(GlobalAuxLoss, OfOppositeMicroBatchesIsThatOfBalance) {
  Tape tape(pool_);
  const auto global = make_one("global_aux_loss", 4, {{"coefficient", 1.0}});
  const auto micro = make_one("aux_loss", 4, {{"coefficient", 1.0}});
  const LayerLoad load = load_of({1, 1, 1, 1}, 2);
  double global_total = 0.0;
  for (const auto& p : {std::vector<double>{0.45, 0.35, 0.1, 0.1}, {0.1, 0.1, 0.35, 0.45}}) {
    const RoutedBatch batch(tape, log_rows(p), layout_of({1}), {.top_k = 2, .valid_tokens = 2});
    const Selection selection = batch.route(*global);
    EXPECT_NEAR(batch.loss(tape, *micro, selection).item(), 1.6 / 2.0, 1e-15);
    global_total += batch.loss(tape, *global, selection, &load).item();
  }
  EXPECT_NEAR(global_total, 1.0, 1e-15);
}

TEST_F(GlobalAuxLoss, OfOneMicroBatchIsTheAuxLossBitForBit) {
  const auto run = [&](const std::string& type) {
    Tape tape(pool_);
    const auto balancer = make_one(type, 4, {{"coefficient", 0.01}});
    const Tensor z = tape.input(rows(f1_logits()));
    const RoutedBatch batch(tape, z, layout_of({4}), {.top_k = 2});
    const Selection selection = batch.route(*balancer);
    const LayerLoad load = load_of(selection, batch.layout());
    const Tensor loss = batch.loss(tape, *balancer, selection, &load);
    tape.backward(loss);
    const Tensor grad = tape.gradient(z);
    const auto values = grad.span<double>();
    std::vector<double> result(values.begin(), values.end());
    result.push_back(loss.item());
    return result;
  };
  EXPECT_EQ(run("global_aux_loss"), run("aux_loss"));
}

TEST_F(GlobalAuxLoss, AddsAShareOfTheMicroBatchLoss) {
  Tape tape(pool_);
  const RoutedBatch batch(tape, rows(f1_logits()), layout_of({4}), {.top_k = 2});
  const auto both = make_one("global_aux_loss", 4, {{"coefficient", 1.0}, {"micro", 0.01}});
  const Selection selection = batch.route(*both);
  const LayerLoad uniform = load_of({2, 2, 2, 2}, 2);
  EXPECT_NEAR(batch.loss(tape, *both, selection, &uniform).item(), 1.0 + 0.01 * 1.184806, 1e-8);
}

TEST_F(GlobalAuxLoss, WantsTheGlobalLoad) {
  Tape tape(pool_);
  const RoutedBatch batch(tape, rows(f1_logits()), layout_of({4}), {.top_k = 2});
  const auto balancer = make_one("global_aux_loss", 4);
  EXPECT_TRUE(balancer->traits().needs_global_counts);
  const Selection selection = batch.route(*balancer);
  EXPECT_THROW((void)batch.loss(tape, *balancer, selection), InternalError);
}

TEST_F(GlobalAuxLoss, OfPreviousCountsLagsByOneStepAndStartsUniform) {
  Tape tape(pool_);
  const auto balancer =
      make_one("global_aux_loss", 4, {{"coefficient", 1.0}, {"counts", "previous"}});
  EXPECT_FALSE(balancer->traits().needs_global_counts);
  const RoutedBatch batch(tape, rows(f1_logits()), layout_of({4}), {.top_k = 2});
  const Selection selection = batch.route(*balancer);
  EXPECT_NEAR(batch.loss(tape, *balancer, selection).item(), 1.0, 1e-15);
  balancer->end_step(load_of({3, 2, 2, 1}, 2), {});
  EXPECT_NEAR(batch.loss(tape, *balancer, selection).item(), 1.184806, 6e-7);

  const auto resumed =
      make_one("global_aux_loss", 4, {{"coefficient", 1.0}, {"counts", "previous"}});
  testing::load_state(*resumed, testing::state_of(*balancer));
  EXPECT_EQ(batch.loss(tape, *resumed, selection).item(),
            batch.loss(tape, *balancer, selection).item());
}

/// A global batch of 8 sequences of very uneven length, some tokens without a loss, cut into
/// micro-batches of whole sequences and run as a training step runs it.
class GlobalBatch {
 public:
  GlobalBatch(Pool& pool, std::string type, nlohmann::json options = nlohmann::json::object())
      : pool_(pool), type_(std::move(type)), options_(std::move(options)) {
    options_["coefficient"] = 1.0;
    SampleFactory factory(pool, DType::f64);
    for (const int64_t length : lengths_) logits_.push_back(factory.uniform({length, 5}, -2, 2));
  }

  struct Result {
    double loss = 0.0;
    std::vector<double> grad;  // with respect to all logits, in order
    std::vector<int64_t> load;
  };
  Result run(int64_t micro_batches) {
    std::vector<std::unique_ptr<Balancer>> balancers;
    balancers.push_back(make_one(type_, 5, options_));
    RoutingSession session(std::move(balancers));
    SingleRank communicator;
    Result result;
    session.begin_step(micro_batches);
    if (session.needs_counting_pass()) {
      session.begin_counting();
      for (int64_t i = 0; i < micro_batches; ++i)
        run_micro_batch(session, {i, micro_batches}, nullptr);
      session.end_counting(communicator);
    }
    for (int64_t i = 0; i < micro_batches; ++i)
      run_micro_batch(session, {i, micro_batches}, &result);
    session.finish_loads(communicator);
    result.load = session.loads()[0].counts;
    return result;
  }

 private:
  /// Token t of a sequence has a loss unless t is 2 modulo 7.
  static void mask(SequenceLayout& layout) {
    for (int64_t s = 0; s < layout.sequences(); ++s) {
      const int64_t begin = layout.sequence_offsets[static_cast<size_t>(s)];
      for (int64_t t = begin + 2; t < layout.sequence_offsets[static_cast<size_t>(s) + 1]; t += 7) {
        layout.counted[static_cast<size_t>(t)] = 0;
      }
    }
  }

  struct Part {
    int64_t index;
    int64_t count;
  };

  /// Adds to `result`, or only routes when it is null.
  void run_micro_batch(RoutingSession& session, Part part, Result* result) {
    SequenceLayout all = layout_of(lengths_);
    mask(all);
    const int64_t sequences = static_cast<int64_t>(lengths_.size()) / part.count;
    const auto first = static_cast<size_t>(part.index * sequences);
    const std::vector<int64_t> own(lengths_.begin() + static_cast<int64_t>(first),
                                   lengths_.begin() + static_cast<int64_t>(first) + sequences);
    std::vector<double> values;
    for (size_t s = first; s < first + static_cast<size_t>(sequences); ++s) {
      const auto of_sequence = logits_[s].span<double>();
      values.insert(values.end(), of_sequence.begin(), of_sequence.end());
    }
    SequenceLayout layout = layout_of(own);
    mask(layout);

    session.begin_micro_batch(part.index);
    Tape tape(pool_);
    const Tensor z =
        tape.input(Tensor::of<double>(pool_, {static_cast<int64_t>(values.size()) / 5, 5}, values));
    const RoutedBatch batch(tape, z, layout,
                            {.top_k = 2,
                             .valid_tokens = all.counted_tokens(),
                             .global_sequences = all.sequences(),
                             .step_load = session.step_load(0)});
    const Selection& selection =
        session.select(0, /*replay=*/false, layout.counted_tokens(),
                       [&](Balancer& balancer, Selection& made) { made = batch.route(balancer); });
    if (result == nullptr) return;
    const Tensor loss = batch.loss(tape, session.balancer(0), selection, session.global_load(0));
    tape.backward(loss);
    result->loss += loss.item();
    const Tensor grad = tape.gradient(z);
    const auto grads = grad.span<double>();
    result->grad.insert(result->grad.end(), grads.begin(), grads.end());
  }

  Pool& pool_;
  std::string type_;
  nlohmann::json options_;
  const std::vector<int64_t> lengths_ = {1, 61, 3, 17, 2, 5, 128, 9};
  std::vector<Tensor> logits_;
};

double relative_distance(const std::vector<double>& a, const std::vector<double>& b) {
  double difference = 0.0;
  double norm = 0.0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  return std::sqrt(difference / norm);
}

TEST_F(GlobalAuxLoss, DoesNotDependOnTheCutIntoMicroBatches) {
  GlobalBatch global_batch(pool_, "global_aux_loss");
  const auto whole = global_batch.run(1);
  ASSERT_GT(std::abs(whole.loss - 1.0), 1e-3);
  for (const int64_t micro_batches : {2, 4, 8}) {
    const auto cut = global_batch.run(micro_batches);
    EXPECT_EQ(cut.load, whole.load);
    EXPECT_NEAR(cut.loss, whole.loss, 1e-12 * whole.loss) << micro_batches;
    ASSERT_EQ(cut.grad.size(), whole.grad.size());
    EXPECT_LE(relative_distance(cut.grad, whole.grad), 1e-12) << micro_batches;
  }
}

TEST_F(GlobalAuxLoss, OfRunningCountsIsThatOfBalanceInTheLastOfTwoOppositeMicroBatches) {
  const std::vector<std::vector<double>> opposite = {{0.45, 0.35, 0.1, 0.1},
                                                     {0.1, 0.1, 0.35, 0.45}};
  std::vector<std::unique_ptr<Balancer>> balancers;
  balancers.push_back(
      make_one("global_aux_loss", 4, {{"coefficient", 1.0}, {"counts", "running"}}));
  RoutingSession session(std::move(balancers));
  SingleRank communicator;
  for (int step = 0; step < 2; ++step) {
    session.begin_step(2);
    EXPECT_FALSE(session.needs_counting_pass());
    std::vector<double> losses;
    for (int64_t i = 0; i < 2; ++i) {
      session.begin_micro_batch(i);
      Tape tape(pool_);
      const RoutedBatch batch(tape, log_rows(opposite[static_cast<size_t>(i)]), layout_of({1}),
                              {.top_k = 2, .step_load = session.step_load(0)});
      const auto select = [&](bool replay) -> const Selection& {
        return session.select(0, replay, 1, [&](Balancer& balancer, Selection& made) {
          made = batch.route(balancer);
        });
      };
      losses.push_back(batch.loss(tape, session.balancer(0), select(false)).item());
      // Recomputed: counted once.
      EXPECT_EQ(batch.loss(tape, session.balancer(0), select(true)).item(), losses.back());
    }
    EXPECT_NEAR(losses[0], 1.6, 1e-15);
    EXPECT_NEAR(losses[1], 1.0, 1e-15);
    session.finish_loads(communicator);
    // Whether or not the update is applied, the next step begins anew.
    if (step == 0) session.end_step({});
  }
}

TEST_F(GlobalAuxLoss, OfRunningCountsIsTheAuxLossForOneMicroBatchAndBetweenForMany) {
  GlobalBatch running(pool_, "global_aux_loss", {{"counts", "running"}});
  GlobalBatch exact(pool_, "global_aux_loss");
  GlobalBatch micro(pool_, "aux_loss");
  EXPECT_EQ(running.run(1).grad, micro.run(1).grad);
  const auto of_running = running.run(8).grad;
  const auto of_exact = exact.run(8).grad;
  EXPECT_LT(relative_distance(of_running, of_exact),
            relative_distance(micro.run(8).grad, of_exact));
}

TEST_F(GlobalAuxLoss, OfRunningCountsSumsOverRanksAfterEveryMicroBatch) {
  // Two layers; rank 0 has three micro-batches of one token, rank 1 one. The chosen two experts of
  // a token are the two with the larger p.
  const std::vector<double> first = {0.45, 0.35, 0.1, 0.1};
  const std::vector<double> last = {0.1, 0.1, 0.35, 0.45};
  const std::vector<std::vector<std::vector<double>>> tokens = {{first, last, last}, {last}};
  std::vector<std::vector<double>> losses(2);
  testing::ThreadRanks::run(2, [&](Communicator& communicator) {
    const auto rank = static_cast<size_t>(communicator.rank());
    Pool pool;
    std::vector<std::unique_ptr<Balancer>> balancers;
    for (int layer = 0; layer < 2; ++layer) {
      balancers.push_back(
          make_one("global_aux_loss", 4, {{"coefficient", 1.0}, {"counts", "running"}}));
    }
    RoutingSession session(std::move(balancers));
    session.begin_step(static_cast<int64_t>(tokens[rank].size()), communicator.size());
    session.share_running_loads(communicator);
    for (size_t i = 0; i < tokens[rank].size(); ++i) {
      session.begin_micro_batch(static_cast<int64_t>(i));
      for (int64_t layer = 0; layer < 2; ++layer) {
        Tape tape(pool);
        std::vector<double> z = tokens[rank][i];
        for (double& x : z) x = std::log(x);
        const RoutedBatch batch(tape, Tensor::of<double>(pool, {1, 4}, z), layout_of({1}),
                                {.top_k = 2, .step_load = session.step_load(layer)});
        const Selection& selection = session.select(
            layer, false, 1,
            [&](Balancer& balancer, Selection& made) { made = batch.route(balancer); });
        const double loss = batch.loss(tape, session.balancer(layer), selection).item();
        if (layer == 1) losses[rank].push_back(loss);
      }
    }
    session.finish_loads(communicator);
    EXPECT_EQ(session.loads()[1].counts, (std::vector<int64_t>{1, 1, 3, 3}));
    EXPECT_EQ(session.loads()[1].tokens, 4);
    session.end_step({});
  });
  // f after each round: (1,1,1,1)/4, then (1,1,2,2)/6, then (1,1,3,3)/8.
  ASSERT_EQ(losses[0].size(), 3U);
  ASSERT_EQ(losses[1].size(), 1U);
  EXPECT_NEAR(losses[0][0], 1.0, 1e-15);
  EXPECT_NEAR(losses[1][0], 1.0, 1e-15);
  EXPECT_NEAR(losses[0][1], 4.0 * (0.2 / 6 + 0.8 * 2 / 6), 1e-15);
  EXPECT_NEAR(losses[0][2], 4.0 * (0.2 / 8 + 0.8 * 3 / 8), 1e-15);
}

TEST_F(GlobalAuxLoss, SeesTheUnbiasedLoadWhereTheSelectionIsShifted) {
  struct Shifted final : Balancer {
    [[nodiscard]] BalancerTraits traits() const override { return {.selects = true}; }
    void route(const RouterInput& input, Selection& selection) override {
      const std::vector<double> shift = {0.0, 0.0, 0.0, 9.0};
      input.choose(shift, selection);
      selection.shifted = true;
    }
  } shifted;
  const std::vector<int64_t> plain = {3, 2, 2, 1};
  for (const std::string counts : {"exact", "running", "previous"}) {
    for (const std::string source : {"auto", "executed", "unbiased"}) {
      Tape tape(pool_);
      const RoutedBatch batch(tape, rows(f1_logits()), layout_of({4}), {.top_k = 2});
      const auto balancer = make_one(
          "global_aux_loss", 4, {{"coefficient", 1.0}, {"counts", counts}, {"selection", source}});
      Selection selection = batch.route(shifted);
      balancer->count_unbiased(batch.input(), selection);
      EXPECT_EQ(selection.load[3], 4);
      EXPECT_EQ(selection.unbiased_load, source == "executed" ? std::vector<int64_t>() : plain);
      const LayerLoad load = load_of(selection, batch.layout());
      balancer->end_step(load, {});
      const double loss = batch.loss(tape, *balancer, selection, &load).item();
      // The worked example's loss is that of the plain load.
      if (source != "executed") {
        EXPECT_NEAR(loss, 1.184806, 6e-7) << counts;
      } else {
        EXPECT_GT(std::abs(loss - 1.184806), 1e-2) << counts;
      }
    }
  }
}

TEST_F(GlobalAuxLoss, OfRunningCountsKeepsNoState) {
  const auto balancer = make_one("global_aux_loss", 4, {{"counts", "running"}});
  EXPECT_FALSE(balancer->traits().needs_global_counts);
  EXPECT_TRUE(testing::state_of(*balancer).empty());
}

TEST_F(GlobalAuxLoss, OnSkewedMicroBatchesDiffersFromTheAuxLoss) {
  GlobalBatch global_batch(pool_, "aux_loss");
  const auto whole = global_batch.run(1);
  const auto cut = global_batch.run(8);
  EXPECT_EQ(cut.load, whole.load);
  EXPECT_GT(relative_distance(cut.grad, whole.grad), 1e-3);
}

}  // namespace
}  // namespace sluice
