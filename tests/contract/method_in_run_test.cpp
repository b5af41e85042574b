// What every balancing method, router and kind of layer must do in a run: go on bit for bit from a
// checkpoint file, keep its state in evaluation, and show no token a later one, nor another document.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "autograd/support/file.h"
#include "tests/support/method_runs.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/tiny_run.h"
#include "tests/support/tiny_trained.h"
#include "train/checkpoint/checkpoint.h"
#include "train/verify_isolation.h"

namespace sluice {
namespace {

using testing::differing_arrays;
using ::testing::IsEmpty;
using testing::MethodInARun;
using testing::methods_in_runs;
using testing::state_of;

class EveryMethodInARun : public ::testing::TestWithParam<MethodInARun> {
 protected:
  [[nodiscard]] static Recipe recipe() { return testing::tiny_recipe(GetParam().changes); }
  static void steps(sluice::Run& run, int count) {
    for (int i = 0; i < count; ++i) {
      const StepResult result = run.step();
      ASSERT_TRUE(result.applied) << result.problem;
      ASSERT_EQ(result.micro_batches, 2);
    }
  }
  SingleRank communicator_;
};

TEST_P(EveryMethodInARun, GoesOnFromACheckpointFileBitForBit) {
  sluice::Run whole(recipe(), communicator_);
  steps(whole, 5);
  sluice::Run first(recipe(), communicator_);
  steps(first, 3);
  const testing::ScratchFolder folder;
  const auto file = folder.path() / "step.h5";
  write_checkpoint(real_file_system(), file, first.checkpoint(std::nullopt));
  sluice::Run second(recipe(), communicator_, read_checkpoint(file), "step.h5");
  EXPECT_THAT(differing_arrays(state_of(second), state_of(first)), IsEmpty());
  steps(second, 2);
  EXPECT_THAT(differing_arrays(state_of(second), state_of(whole)), IsEmpty());
}

TEST_P(EveryMethodInARun, ChangesNothingByAnEvaluation) {
  sluice::Run evaluated(recipe(), communicator_);
  sluice::Run plain(recipe(), communicator_);
  for (int round = 0; round < 2; ++round) {
    steps(evaluated, 2);
    steps(plain, 2);
    const StateDict before = state_of(evaluated);
    ASSERT_TRUE(evaluated.evaluate().has_value());
    for (const std::string& name : differing_arrays(state_of(evaluated), before)) {
      // The run itself remembers its best evaluation.
      EXPECT_TRUE(name.starts_with("run/")) << name;
    }
  }
  for (const std::string& name : differing_arrays(state_of(evaluated), state_of(plain))) {
    EXPECT_TRUE(name.starts_with("run/")) << name;
  }
}

TEST_P(EveryMethodInARun, ShowsNoTokenALaterOneInEvaluation) {
  TrainedModel trained = testing::tiny_trained(GetParam().changes, 3);
  std::vector<int32_t> tokens;
  for (int32_t t = 0; t < 40; ++t) tokens.push_back(97 + t * t % 24);
  const std::vector<double> before = testing::logits_of(trained, tokens);
  const size_t vocab = before.size() / tokens.size();
  for (const size_t changed : {size_t{39}, size_t{20}}) {
    std::vector<int32_t> other = tokens;
    other[changed] = 97 + (other[changed] - 97 + 5) % 24;
    const std::vector<double> after = testing::logits_of(trained, other);
    for (size_t i = 0; i < changed * vocab; ++i) {
      ASSERT_EQ(before[i], after[i]) << "token " << i / vocab << " sees token " << changed;
    }
    EXPECT_NE(before, after);
  }
}

TEST_P(EveryMethodInARun, KeepsDocumentsApart) {
  TrainedModel trained = testing::tiny_trained(GetParam().changes);
  const IsolationVerdict verdict =
      verify_isolation({trained.recipe, *trained.pool, *trained.model, *trained.routing, {}});
  EXPECT_TRUE(verdict.evaluation.is_isolated());
  EXPECT_TRUE(verdict.passes());
}

INSTANTIATE_TEST_SUITE_P(DefLists, EveryMethodInARun, ::testing::ValuesIn(methods_in_runs()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace sluice
