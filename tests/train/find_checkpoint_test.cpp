#include "train/find_checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "autograd/support/error.h"
#include "tests/support/error_of.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/tiny_run.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::ScratchFolder;

class FindCheckpoint : public ::testing::Test {
 protected:
  void save(int64_t step, std::optional<double> eval_loss) {
    std::filesystem::create_directories(scratch_ / "run" / "checkpoints");
    write_checkpoint(real_file_system(), path(step),
                     {.meta = {.step = step, .eval_loss = eval_loss}, .state = {}});
  }
  void damage(int64_t step) { std::filesystem::resize_file(path(step), 700); }
  [[nodiscard]] std::filesystem::path path(int64_t step) const {
    return scratch_ / "run" / "checkpoints" / checkpoint_name(step);
  }
  int64_t found(const std::filesystem::path& what, CheckpointChoice choice) {
    notes_.clear();
    return find_checkpoint(what, choice, notes_).checkpoint.meta.step;
  }
  template <class ErrorType>
  std::string error_of(const std::filesystem::path& what, CheckpointChoice choice) {
    return testing::error_of<ErrorType>([&] { (void)found(what, choice); });
  }

  ScratchFolder scratch_;
  std::vector<std::string> notes_;
};

TEST_F(FindCheckpoint, TakesAFileAsItIs) {
  save(3, {});
  save(7, {});
  EXPECT_EQ(found(path(3), CheckpointChoice::newest), 3);
  EXPECT_EQ(found(path(3), CheckpointChoice::best), 3);
}

TEST_F(FindCheckpoint, TakesTheNewestOfARunOrItsCheckpointsFolder) {
  save(3, 1.0);
  save(12, 2.0);
  EXPECT_EQ(found(scratch_ / "run", CheckpointChoice::newest), 12);
  EXPECT_EQ(found(scratch_ / "run" / "checkpoints", CheckpointChoice::newest), 12);
  EXPECT_THAT(notes_, IsEmpty());
}

TEST_F(FindCheckpoint, TakesTheBestWhenAsked) {
  save(3, 1.5);
  save(5, 1.0);
  save(8, std::nullopt);
  save(12, 2.0);
  EXPECT_EQ(found(scratch_ / "run", CheckpointChoice::best), 5);
}

TEST_F(FindCheckpoint, PassesOverADamagedOneAndNamesIt) {
  save(3, 1.0);
  save(12, 0.5);
  damage(12);
  EXPECT_EQ(found(scratch_ / "run", CheckpointChoice::newest), 3);
  EXPECT_THAT(notes_, ElementsAre(HasSubstr("step_00000012.h5")));
  EXPECT_EQ(found(scratch_ / "run", CheckpointChoice::best), 3);
  EXPECT_THAT(notes_, ElementsAre(HasSubstr("step_00000012.h5")));
}

TEST_F(FindCheckpoint, RefusesADamagedOneAskedForByName) {
  save(12, {});
  damage(12);
  EXPECT_THAT(error_of<CheckpointError>(path(12), CheckpointChoice::newest),
              HasSubstr("step_00000012.h5"));
  EXPECT_THAT(error_of<CheckpointError>(scratch_ / "run", CheckpointChoice::newest),
              HasSubstr("no checkpoint is whole"));
}

TEST_F(FindCheckpoint, SaysWhatIsMissing) {
  EXPECT_THAT(error_of<ConfigError>(scratch_ / "nothing", CheckpointChoice::newest),
              HasSubstr("nothing: no such checkpoint file or run folder"));
  EXPECT_THAT(error_of<ConfigError>(scratch_.path(), CheckpointChoice::newest),
              HasSubstr("holds no checkpoint yet"));
  save(3, {});
  EXPECT_THAT(error_of<CheckpointError>(scratch_ / "run", CheckpointChoice::best),
              HasSubstr("no whole checkpoint has a held-out loss"));
}

// --- where a trained model stands ----------------------------------------------------------------

TEST(ProgressOf, IsThatOfTheRun) {
  const Recipe recipe = testing::tiny_recipe("train: {steps: 8}");
  const Progress progress = progress_of(recipe, {.step = 6, .tokens = 768});
  EXPECT_EQ(progress.step, 6);
  EXPECT_EQ(progress.tokens, 768);
  EXPECT_EQ(progress.total_steps, 8);
}

TEST(ProgressOf, OfARunInEpochsOfUnknownLengthIsItsEnd) {
  const Recipe recipe = testing::tiny_recipe("train: {steps: 3 epochs}");
  const Progress progress = progress_of(recipe, {.step = 6, .tokens = 768});
  EXPECT_EQ(progress.total_steps, 6);
  EXPECT_EQ(progress.epochs, 3.0);
  EXPECT_EQ(progress.total_epochs, 3.0);
}

TEST(ProgressOf, OfARunInEpochsIsExact) {
  const Recipe recipe = testing::tiny_recipe("train: {steps: 2 epochs}");
  const Progress progress = progress_of(recipe, {.step = 6, .tokens = 768, .train_tokens = 1024});
  EXPECT_EQ(progress.epochs, 0.75);
  EXPECT_EQ(progress.total_steps, 16);
}

}  // namespace
}  // namespace sluice
