#include "balance/router_monitor.h"

#include <gtest/gtest.h>

#include <cmath>

#include "autograd/support/parallel.h"
#include "layers/routing_session.h"
#include "tests/balance/routed_batch.h"
#include "tests/support/thread_ranks.h"

namespace sluice {
namespace {

using testing::layout_of;
using testing::RoutedBatch;

/// The page's fixture F1.
const std::vector<double> kF1 = {2, 1, 0, -1, 1, 2, .5, 0, 3, 0, 1, -1, .5, 0, 2, 1};

RouterScores softmax_scores(Tape& tape, const Tensor& logits) {
  const Tensor p = softmax(tape, logits);
  return {.logits = logits, .scores = p, .probabilities = p};
}

/// Shows `monitor` tokens [begin, end) of `logits` [N, 4] as a micro-batch of layer 1, top-2.
void show(RouterMonitor& monitor, const std::vector<double>& logits, int64_t begin, int64_t end,
          const std::vector<uint8_t>& counted = {}) {
  Pool pool;
  Tape tape(pool);
  const NoGrad no_grad(tape);
  const std::vector<double> rows(logits.begin() + 4 * begin, logits.begin() + 4 * end);
  const Tensor z = Tensor::of<double>(pool, {end - begin, 4}, rows);
  SequenceLayout layout = layout_of({end - begin});
  if (!counted.empty()) layout.counted = counted;
  Selection selection;
  const RouterScores scores = softmax_scores(tape, z);
  choose_top_k(scores.scores, {}, 2, selection);
  selection.count_load(layout.counted);
  monitor.observe({1, scores, selection, layout, {}});
}

/// Computed by hand from F1.
void expect_f1(const RouterStatistics& seen) {
  EXPECT_NEAR(seen.entropy, 0.940539, 5e-7);
  EXPECT_NEAR(seen.logit_norm, 2.587173, 5e-7);
  EXPECT_NEAR(seen.top_margin, 0.464462, 5e-7);
  EXPECT_NEAR(seen.chosen_probability, 0.852230, 5e-7);
}

TEST(RouterMonitor, AgreesWithTheWorkedExample) {
  RouterMonitor monitor(2);
  show(monitor, kF1, 0, 4);
  expect_f1(monitor.layers()[1]);
  EXPECT_EQ(monitor.layers()[0].entropy, 0.0);
}

TEST(RouterMonitor, AddsMicroBatches) {
  RouterMonitor monitor(2);
  show(monitor, kF1, 0, 1);
  show(monitor, kF1, 1, 1);
  show(monitor, kF1, 1, 4);
  expect_f1(monitor.layers()[1]);
}

TEST(RouterMonitor, AddsRanks) {
  testing::ThreadRanks::run(2, [](Communicator& communicator) {
    RouterMonitor monitor(2);
    show(monitor, kF1, communicator.rank() == 0 ? 0 : 3, communicator.rank() == 0 ? 3 : 4);
    monitor.reduce(communicator);
    expect_f1(monitor.layers()[1]);
  });
}

TEST(RouterMonitor, LeavesOutTokensWithoutALoss) {
  std::vector<double> logits = kF1;
  logits.insert(logits.end(), {100, 0, 0, 0});
  RouterMonitor monitor(2);
  show(monitor, logits, 0, 5, {1, 1, 1, 1, 0});
  expect_f1(monitor.layers()[1]);
}

TEST(RouterMonitor, OfARouterThatIsSureHasNoEntropy) {
  RouterMonitor monitor(2);
  show(monitor, {1000, 0, 0, 0}, 0, 1);
  const RouterStatistics seen = monitor.layers()[1];
  EXPECT_EQ(seen.entropy, 0.0);
  EXPECT_EQ(seen.top_margin, 1.0);
  EXPECT_EQ(seen.logit_norm, 1000.0);
}

TEST(RouterMonitor, GivesTheSameBitsOnAnyNumberOfThreads) {
  std::vector<double> logits;
  for (int i = 0; i < 4 * 1500; ++i) logits.push_back(std::sin(0.7 * i));
  const auto entropy = [&](int threads) {
    set_num_threads(threads);
    RouterMonitor monitor(2);
    show(monitor, logits, 0, 1500);
    set_num_threads(1);
    return monitor.layers()[1].entropy;
  };
  EXPECT_EQ(entropy(1), entropy(3));
}

}  // namespace
}  // namespace sluice
