#include "train/checkpoint/store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <fstream>
#include <future>

#include "autograd/support/error.h"
#include "tests/support/faulty_file_system.h"
#include "tests/support/scratch_folder.h"

namespace sluice {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using testing::FailingCall;
using testing::FullDisk;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::ScratchFolder;
using ::testing::SizeIs;

Checkpoint at_step(int64_t step, std::optional<double> eval_loss = {}) {
  Checkpoint checkpoint;
  checkpoint.meta.step = step;
  checkpoint.meta.eval_loss = eval_loss;
  checkpoint.state["optim/steps"] = {ElementType::u8, {1}, {static_cast<std::byte>(step)}};
  return checkpoint;
}

void damage(const std::filesystem::path& path) {
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  file.seekp(700);
  file.put('\x55');
}

TEST(ExpiredCheckpoints, FollowTheTable) {
  struct Row {
    std::map<int64_t, std::optional<double>> losses;
    int64_t keep;
    bool keep_best;
    std::vector<int64_t> expired;
  };
  const double nan = std::nan("");
  const std::vector<Row> table{
      {{}, 3, true, {}},
      {{{1, {}}, {2, {}}, {3, {}}}, 3, true, {}},
      {{{1, {}}, {2, {}}, {3, {}}, {4, {}}}, 3, true, {1}},
      {{{1, 2.0}, {2, 1.0}, {3, 3.0}, {4, 4.0}}, 1, true, {1, 3}},
      {{{1, 2.0}, {2, 1.0}, {3, 3.0}, {4, 4.0}}, 1, false, {1, 2, 3}},
      {{{1, 1.0}, {2, 1.0}, {3, {}}}, 1, true, {2}},
      {{{1, nan}, {2, 1.0}, {3, {}}}, 1, true, {1}},
      {{{1, 5.0}, {2, {}}}, 0, false, {1}},
  };
  for (size_t row = 0; row < table.size(); ++row) {
    EXPECT_EQ(expired_checkpoints(table[row].losses, table[row].keep, table[row].keep_best),
              table[row].expired)
        << "row " << row;
  }
}

class CheckpointStoreModes : public ::testing::TestWithParam<bool> {
 protected:
  ScratchFolder folder_;
  StoreOptions options_{.keep = 2, .keep_best = true, .asynchronous = GetParam()};
};
INSTANTIATE_TEST_SUITE_P(SyncAndAsync, CheckpointStoreModes, ::testing::Bool());

TEST_P(CheckpointStoreModes, KeepsTheNewestAndTheBest) {
  CheckpointStore store(folder_.path(), options_);
  store.open_for_writing();
  for (const auto& [step, loss] : std::map<int64_t, double>{{1, 3}, {2, 1}, {3, 2}, {4, 4}}) {
    store.save(at_step(step, loss));
    store.check();
  }
  store.finish();
  EXPECT_THAT(store.steps(), ElementsAre(2, 3, 4));
  EXPECT_THAT(store.take_warnings(), IsEmpty());
}

TEST_P(CheckpointStoreModes, RemembersTheBestOfAnEarlierProcess) {
  for (const int64_t first : {1, 3}) {
    CheckpointStore store(folder_.path(), options_);
    store.open_for_writing();
    store.save(at_step(first, first == 1 ? 1.0 : 5.0));
    store.save(at_step(first + 1, 6.0));
    store.finish();
  }
  EXPECT_THAT(CheckpointStore(folder_.path()).steps(), ElementsAre(1, 3, 4));
}

TEST_P(CheckpointStoreModes, FindsTheNewestValidAndNamesTheDamagedOnes) {
  CheckpointStore store(folder_.path(), options_);
  store.open_for_writing();
  std::vector<std::string> warnings;
  EXPECT_FALSE(store.newest_valid(warnings));
  for (const int64_t step : {100, 200, 300}) store.save(at_step(step, 1.0));
  store.finish();
  damage(store.path_of(300));
  const auto found = store.newest_valid(warnings);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->checkpoint.meta.step, 200);
  EXPECT_EQ(found->path.filename(), "step_00000200.h5");
  EXPECT_THAT(warnings,
              ElementsAre(store.path_of(300).string() + ": damaged: its checksum does not match"));
}

TEST_P(CheckpointStoreModes, ADamagedFileDisplacesNoGoodOne) {
  {
    CheckpointStore store(folder_.path(), options_);
    store.open_for_writing();
    for (const int64_t step : {100, 200}) store.save(at_step(step));
    store.finish();
    damage(store.path_of(200));
  }
  CheckpointStore store(folder_.path(), options_);
  store.open_for_writing();
  store.save(at_step(150));
  store.finish();
  EXPECT_THAT(store.steps(), ElementsAre(100, 150, 200));
  EXPECT_THAT(store.take_warnings(), ElementsAre(HasSubstr("step_00000200.h5: damaged")));
  // Reaching the step again heals it.
  store.save(at_step(200));
  store.finish();
  EXPECT_THAT(store.steps(), ElementsAre(150, 200));
  std::vector<std::string> warnings;
  EXPECT_EQ(store.newest_valid(warnings)->checkpoint.meta.step, 200);
}

TEST_P(CheckpointStoreModes, ReportsAFullDiskAndKeepsWhatIsThere) {
  {
    CheckpointStore store(folder_.path(), options_);
    store.open_for_writing();
    store.save(at_step(100));
    store.finish();
  }
  FullDisk disk(1000);
  CheckpointStore store(folder_.path(), options_, disk);
  store.open_for_writing();
  EXPECT_THROW(
      {
        store.save(at_step(200));
        store.finish();
      },
      CheckpointError);
  // The error is reported once; the store goes on.
  store.check();
  store.finish();
  EXPECT_THAT(store.steps(), ElementsAre(100));
  EXPECT_TRUE(remove_stale_temporaries(real_file_system(), folder_.path()).empty());
}

TEST_P(CheckpointStoreModes, SweepsUpAfterACrash) {
  std::ofstream(folder_ / "step_00000200.h5.tmp-1") << "half";
  std::ofstream(folder_ / "notes.txt") << "mine";
  std::ofstream(folder_ / "step_7.h5") << "foreign";
  CheckpointStore store(folder_.path(), options_);
  store.open_for_writing();
  EXPECT_FALSE(std::filesystem::exists(folder_ / "step_00000200.h5.tmp-1"));
  EXPECT_TRUE(std::filesystem::exists(folder_ / "notes.txt"));
  EXPECT_THAT(store.steps(), IsEmpty());
}

TEST_P(CheckpointStoreModes, WarnsWhenAnExpiredOneCannotBeDeleted) {
  class NoRemoval : public FileSystem {
    int remove(const char*) override { return -1; }
  } files;
  CheckpointStore store(folder_.path(), options_, files);
  store.open_for_writing();
  for (const int64_t step : {1, 2, 3}) store.save(at_step(step));
  store.finish();
  EXPECT_THAT(store.take_warnings(), ElementsAre(HasSubstr("step_00000001.h5: the expired")));
  EXPECT_THAT(store.take_warnings(), IsEmpty());
}

// Holds every write until the test opens the gate.
class Gated : public FileSystem {
 public:
  ssize_t write(int descriptor, const void* data, size_t bytes) override {
    opened_.wait();
    return FileSystem::write(descriptor, data, bytes);
  }
  void open_gate() { gate_.set_value(); }

 private:
  std::promise<void> gate_;
  std::shared_future<void> opened_ = gate_.get_future().share();
};

TEST(CheckpointStore, SavesTheStateOfTheRequestWhileTrainingGoesOn) {
  const ScratchFolder folder;
  Gated files;
  CheckpointStore store(folder.path(), {}, files);
  store.open_for_writing();
  std::vector<double> weights{1, 2, 3};
  SaveVisitor visitor;
  visitor.list("model/w", weights);
  store.save({{.step = 1}, visitor.take()});
  weights = {9, 9, 9};
  store.check();
  EXPECT_THAT(store.steps(), IsEmpty());
  files.open_gate();
  store.finish();
  EXPECT_THAT(read_checkpoint(store.path_of(1)).state.at("model/w").values<double>(),
              ElementsAre(1, 2, 3));
}

TEST(CheckpointStore, AsyncAndSyncWriteTheSameBytes) {
  const ScratchFolder folder;
  std::vector<std::string> contents;
  for (const bool asynchronous : {false, true}) {
    CheckpointStore store(folder.path(), {.asynchronous = asynchronous});
    store.open_for_writing();
    store.save(at_step(5, 1.5));
    store.finish();
    contents.push_back(read_file(store.path_of(5), raise_as<CheckpointError>));
  }
  EXPECT_EQ(contents[0], contents[1]);
}

TEST(CheckpointStore, OnlyTheWriterInTheBackgroundGivesWayToOtherThreads) {
  class Watching : public FileSystem {
   public:
    ssize_t write(int descriptor, const void* data, size_t bytes) override {
      priority_ = getpriority(PRIO_PROCESS, 0);
      return FileSystem::write(descriptor, data, bytes);
    }
    int priority_ = 0;
  };
  const ScratchFolder folder;
  const int own = getpriority(PRIO_PROCESS, 0);
  for (const bool asynchronous : {true, false}) {
    Watching files;
    CheckpointStore store(folder.path(), {.asynchronous = asynchronous}, files);
    store.open_for_writing();
    store.save(at_step(1));
    store.finish();
    EXPECT_EQ(files.priority_, asynchronous ? 19 : own);
    EXPECT_EQ(getpriority(PRIO_PROCESS, 0), own);
  }
}

TEST(CheckpointStore, MemoryOnceReservedServesEverySave) {
  const ScratchFolder folder;
  CheckpointStore store(folder.path());
  store.open_for_writing();
  std::vector<double> weights(300'000, 1.0);
  store.reserve(static_cast<int64_t>(weights.size() * sizeof(double)));
  const int64_t reserved = store.image_bytes();
  for (const int64_t step : {1, 2, 3}) {
    weights.assign(weights.size(), static_cast<double>(step));
    store.save({.step = step}, [&](StateVisitor& v) { v.list("model/w", weights); });
  }
  store.finish();
  EXPECT_EQ(store.image_bytes(), reserved);
  for (const int64_t step : {1, 2, 3}) {
    const Checkpoint back = read_checkpoint(store.path_of(step));
    EXPECT_THAT(back.state.at("model/w").values<double>(), Each(static_cast<double>(step)));
  }
}

TEST(CheckpointStore, TheDestructorWaits) {
  const ScratchFolder folder;
  {
    CheckpointStore store(folder.path());
    store.open_for_writing();
    store.save(at_step(5));
  }
  EXPECT_THAT(CheckpointStore(folder.path()).steps(), ElementsAre(5));
}

TEST(CheckpointStore, ErrorsSurfaceAtALaterStepBoundary) {
  const ScratchFolder folder;
  FullDisk disk(0);
  CheckpointStore store(folder.path(), {}, disk);
  store.open_for_writing();
  store.save(at_step(5));
  bool thrown = false;
  while (!thrown) {
    try {
      store.check();
    } catch (const CheckpointError& error) {
      thrown = true;
      EXPECT_THAT(error.what(), HasSubstr("No space left on device"));
    }
  }
}

}  // namespace
}  // namespace sluice
