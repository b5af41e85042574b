#pragma once
// What a run of any layer must do.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "autograd/support/parallel.h"
#include "tests/support/tiny_run.h"

namespace sluice::testing {

/// Three steps leave the same state on one thread and on three.
inline void expect_same_state_on_any_threads(const Recipe& recipe) {
  const int before = num_threads();
  SingleRank communicator;
  std::vector<StateDict> states;
  for (const int threads : {1, 3}) {
    set_num_threads(threads);
    sluice::Run run(recipe, communicator);
    for (int step = 0; step < 3; ++step) ASSERT_TRUE(run.step().applied);
    states.push_back(state_of(run));
  }
  set_num_threads(before);
  EXPECT_THAT(differing_arrays(states[0], states[1]), ::testing::IsEmpty());
}

}  // namespace sluice::testing
