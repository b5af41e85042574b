// What every balancing method and every router must do in a run: go on bit for bit from a
// checkpoint file, keep its state in evaluation, and show no token a later one.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ostream>

#include "autograd/support/file.h"
#include "balance/make.h"
#include "layers/router.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/tiny_run.h"
#include "tests/support/tiny_trained.h"
#include "train/checkpoint/checkpoint.h"

namespace sluice {
namespace {

using testing::differing_arrays;
using ::testing::IsEmpty;
using testing::state_of;

struct MethodInARun {
  std::string name;
  std::string changes;  // on top of tiny_recipe()
  friend void PrintTo(const MethodInARun& method, std::ostream* out) { *out << method.name; }
};

/// Sequences of 32 tokens with documents of uneven length, in two micro-batches.
std::string changes_of(const std::string& router, int64_t top_k, const std::string& balance) {
  return fmt::format(
      "model: {{experts: {{top_k: {}, router: {}}}}}\nbalance: {}\n"
      "train: {{micro_batch: 64 tokens}}\n",
      top_k, router, balance);
}

std::vector<MethodInARun> methods() {
  std::vector<MethodInARun> result;
  for (const Choice& choice : balance_choices()) {
    const std::string name(choice.name);
    const std::string router = name == "load_loss"          ? "{type: noisy_top_k}"
                               : name == "null_expert_loss" ? "{type: null_experts}"
                                                            : "{type: top_k}";
    const std::string options = name == "device_aux_loss" ? ", groups: 2" : "";
    result.push_back(
        {"balance_" + name, changes_of(router, 2, fmt::format("{{type: {}{}}}", name, options))});
  }
  for (const Choice& choice : router_choices()) {
    const std::string name(choice.name);
    const auto config = choice.make_config();
    const auto& router = dynamic_cast<const RouterConfig&>(*config);
    const bool takes_two = router.check_against(4, 2).empty();
    const std::string balance = router.is_fixed() ? "{type: none}" : "{type: loss_free_bias}";
    // As many domains as the made-up text has, and no more experts.
    const std::string router_yaml = name == "mixer" ? "{type: mixer, domains: 2}, num_experts: 2"
                                                    : fmt::format("{{type: {}}}", name);
    result.push_back({"router_" + name, changes_of(router_yaml, takes_two ? 2 : 1, balance)});
  }
  result.push_back({"balance_loss_free_bias_multiplicative",
                    changes_of("{type: null_experts}", 2,
                               "{type: loss_free_bias, form: multiplicative, recentre: true}")});
  result.push_back(
      {"router_thor_average", changes_of("{type: thor, evaluation: average}", 1, "{type: none}")});
  return result;
}

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

INSTANTIATE_TEST_SUITE_P(DefLists, EveryMethodInARun, ::testing::ValuesIn(methods()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace sluice
