#include "train/run_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

#include "autograd/support/error.h"
#include "tests/support/faulty_file_system.h"
#include "tests/support/scratch_folder.h"

namespace sluice {
namespace {

using testing::FullDisk;
using testing::ScratchFolder;

TEST(RunFolder, IsCreatedWithItsParents) {
  const ScratchFolder scratch;
  const auto folder = scratch.path() / "runs" / "quickstart";
  const RunFolder run = RunFolder::open_for_writing(folder);
  EXPECT_TRUE(std::filesystem::is_directory(folder));
  EXPECT_EQ(run.checkpoints(), folder / "checkpoints");
  EXPECT_EQ(run.metrics(), folder / "metrics.jsonl");
  EXPECT_EQ(run.read_recipe(), std::nullopt);
}

TEST(RunFolder, KeepsTheRecipe) {
  const ScratchFolder scratch;
  RunFolder::open_for_writing(scratch.path()).write_recipe("seed: 1\n");
  EXPECT_EQ(RunFolder::open_for_reading(scratch.path()).read_recipe(), "seed: 1\n");
}

TEST(RunFolder, RefusesASecondProcessAndNamesTheFirst) {
  const ScratchFolder scratch;
  const RunFolder first = RunFolder::open_for_writing(scratch.path());
  try {
    (void)RunFolder::open_for_writing(scratch.path());
    FAIL();
  } catch (const CheckpointError& error) {
    EXPECT_EQ(error.what(),
              fmt::format("{}: in use by process {}; stop it, or choose another folder with --out",
                          scratch.path().string(), ::getpid()));
  }
  EXPECT_EQ(RunFolder::open_for_reading(scratch.path()).path(), scratch.path());
}

TEST(RunFolder, IsFreeAgainAfterItsHolder) {
  const ScratchFolder scratch;
  { const RunFolder run = RunFolder::open_for_writing(scratch.path()); }
  const RunFolder again = RunFolder::open_for_writing(scratch.path());
  EXPECT_EQ(again.path(), scratch.path());
}

TEST(RunFolder, IsFreeAgainAfterAKilledProcess) {
  const ScratchFolder scratch;
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    RunFolder run = RunFolder::open_for_writing(scratch.path());
    ::kill(::getpid(), SIGKILL);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_NO_THROW((void)RunFolder::open_for_writing(scratch.path()));
}

TEST(RunFolder, MovesItsLockAlong) {
  const ScratchFolder scratch;
  RunFolder first = RunFolder::open_for_writing(scratch.path());
  const RunFolder second = std::move(first);
  EXPECT_THROW((void)RunFolder::open_for_writing(scratch.path()), CheckpointError);
}

TEST(RunFolder, SweepsUpAfterACrash) {
  const ScratchFolder scratch;
  std::ofstream(scratch / "recipe.yaml.tmp-1") << "half";
  (void)RunFolder::open_for_writing(scratch.path());
  EXPECT_FALSE(std::filesystem::exists(scratch / "recipe.yaml.tmp-1"));
}

TEST(RunFolder, OnAFullDiskKeepsTheOldRecipe) {
  const ScratchFolder scratch;
  RunFolder::open_for_writing(scratch.path()).write_recipe("seed: 1\n");
  FullDisk disk(3);
  EXPECT_THROW(RunFolder::open_for_writing(scratch.path(), disk).write_recipe("seed: 2\n"),
               CheckpointError);
  EXPECT_EQ(RunFolder::open_for_reading(scratch.path()).read_recipe(), "seed: 1\n");
}

TEST(RunFolder, ForReadingMustExist) {
  const ScratchFolder scratch;
  EXPECT_THROW((void)RunFolder::open_for_reading(scratch.path() / "absent"), ConfigError);
}

}  // namespace
}  // namespace sluice
