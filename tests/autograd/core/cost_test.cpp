#include "autograd/core/cost.h"

#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

namespace sluice {
namespace {

using std::chrono::milliseconds;

double seconds(const CostMeter& meter, Phase phase) { return meter.phase_total(phase).seconds; }

TEST(PhaseTimer, LeavesOutWhatKernelsAndInnerTimersAccountFor) {
  CostMeter meter;
  {
    const PhaseTimer outer(&meter, Phase::routing, Direction::forward);
    std::this_thread::sleep_for(milliseconds(4));
    {
      const PhaseTimer inner(&meter, Phase::balancing, Direction::extra);
      std::this_thread::sleep_for(milliseconds(8));
    }
    // A kernel that says it took an hour leaves nothing for the timer around it.
    const PhaseTimer none_left(&meter, Phase::attention, Direction::forward);
    meter.add({.name = "matmul",
               .phase = Phase::experts,
               .direction = Direction::backward,
               .seconds = 3600.0});
  }
  EXPECT_GE(meter.at(Phase::balancing, Direction::extra).seconds, 8e-3);
  EXPECT_EQ(seconds(meter, Phase::experts), 3600.0);
  EXPECT_EQ(seconds(meter, Phase::attention), 0.0);
  EXPECT_EQ(seconds(meter, Phase::routing), 0.0);
  EXPECT_EQ(meter.phase_total(Phase::balancing).calls, 0);
}

TEST(PhaseTimer, AccountsForTheRest) {
  CostMeter meter;
  {
    const PhaseTimer outer(&meter, Phase::routing, Direction::forward);
    std::this_thread::sleep_for(milliseconds(6));
    const PhaseTimer inner(&meter, Phase::balancing, Direction::forward);
    std::this_thread::sleep_for(milliseconds(3));
  }
  EXPECT_GE(seconds(meter, Phase::routing), 6e-3);
  EXPECT_GE(seconds(meter, Phase::balancing), 3e-3);
  EXPECT_NEAR(meter.total().seconds, meter.seconds_added(), 1e-12);
}

TEST(PhaseTimer, DoesNothingWithoutAMeter) {
  const PhaseTimer timer(nullptr, Phase::routing, Direction::forward);
}

TEST(CostMeter, KeepsWhatWasAddedWhenItStartsAnew) {
  CostMeter meter;
  meter.add({.name = kHostWork, .phase = Phase::routing, .seconds = 2.0});
  meter.reset();
  EXPECT_EQ(meter.total().seconds, 0.0);
  EXPECT_EQ(meter.seconds_added(), 2.0);
}

TEST(CostMeter, ShowsItsItemsAsTheyEndAndLosesItsObserverInACopy) {
  class Names final : public WorkObserver {
   public:
    void add(const WorkItem& item) override { seen.emplace_back(item.name); }
    std::vector<std::string> seen;
  } names;
  CostMeter meter;
  meter.show_to(&names);
  {
    const PhaseTimer outer(&meter, Phase::optimizer, Direction::forward);
    const PhaseTimer inner(&meter, Phase::optimizer, Direction::forward, "optimizer_step",
                           {.bytes = 28.0});
  }
  EXPECT_EQ(names.seen, (std::vector<std::string>{"optimizer_step", "host"}));
  CostMeter taken = meter.take();
  EXPECT_EQ(taken.phase_total(Phase::optimizer).calls, 1);
  EXPECT_EQ(taken.phase_total(Phase::optimizer).bytes, 28.0);
  EXPECT_EQ(meter.phase_total(Phase::optimizer).calls, 0);
  taken.add({.name = "matmul"});
  EXPECT_EQ(names.seen.size(), 2U);
  meter.add({.name = "matmul"});
  EXPECT_EQ(names.seen.size(), 3U);
}

}  // namespace
}  // namespace sluice
