// Models that cannot be written: the disk is full, a call fails, the power goes. What was asked for
// is there whole or not at all, and nothing else is, so that it can be asked for again.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/error_of.h"
#include "tests/support/faulty_file_system.h"
#include "tests/support/made_up_checkpoint.h"
#include "tests/support/scratch_folder.h"
#include "train/interchange/export.h"
#include "train/interchange/import.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;
using testing::CutPower;
using testing::error_of;
using testing::FailingCall;
using testing::FullDisk;
using ::testing::HasSubstr;
using testing::PowerCut;
using testing::ScratchFolder;

const Checkpoint& checkpoint() {
  static const Checkpoint made = [] {
    Checkpoint result = testing::made_up_checkpoint(R"(
model: {pattern: AF, hidden_size: 8, vocab_size: 280, attention: {num_heads: 2},
        feed_forward: {intermediate_size: 8}}
)");
    testing::give_pieces(result);
    return result;
  }();
  return made;
}

/// An exported model.
const fs::path& source() {
  static const ScratchFolder folder;
  static const fs::path path = [] {
    export_model(checkpoint(), "made-up.h5", {.output = folder / "model", .family = "llama"});
    return folder / "model";
  }();
  return path;
}

template <ExportFormat format, int64_t max_file_bytes>
void run_export(FileSystem& files, const fs::path& output) {
  export_model(
      checkpoint(), "made-up.h5",
      {.output = output, .format = format, .family = "llama", .max_file_bytes = max_file_bytes},
      files);
}

void run_import(FileSystem& files, const fs::path& output) {
  (void)import_model({.source = source(), .output = output}, files);
}

struct Task {
  const char* name;
  void (*run)(FileSystem&, const fs::path& output);
  const char* output;
};

/// The bytes of a file, or of the files of a folder, by their place in it.
std::map<std::string, std::string> contents(const fs::path& path) {
  if (fs::is_regular_file(path)) return {{"", read_file(path, raise_as<DataError>)}};
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(path)) {
    if (!entry.is_regular_file()) continue;
    files[fs::relative(entry.path(), path).string()] = read_file(entry.path(), raise_as<DataError>);
  }
  return files;
}

class WriteFaults : public ::testing::TestWithParam<Task> {
 protected:
  void SetUp() override {
    const ScratchFolder folder;
    FailingCall none(-1);
    run(none, folder);
    calls_ = none.calls();
    expected_ = contents(folder / GetParam().output);
  }

  static void run(FileSystem& files, const ScratchFolder& folder) {
    GetParam().run(files, folder / GetParam().output);
  }
  static std::string error(FileSystem& files, const ScratchFolder& folder) {
    return error_of<CheckpointError>([&] { run(files, folder); });
  }
  static bool is_there(const ScratchFolder& folder) {
    return fs::exists(folder / GetParam().output);
  }
  [[nodiscard]] bool is_whole(const ScratchFolder& folder) const {
    return contents(folder / GetParam().output) == expected_;
  }

  int64_t calls_ = 0;
  std::map<std::string, std::string> expected_;
};

TEST_P(WriteFaults, OfAnyCallAreReportedAndLeaveNothingBehind) {
  ASSERT_GT(calls_, 5);
  for (int64_t call = 0; call < calls_; ++call) {
    const ScratchFolder folder;
    FailingCall failing(call);
    EXPECT_THAT(error(failing, folder), HasSubstr("Input/output error")) << call;
    if (is_there(folder)) {  // the last thing is to sync the folder that it stands in
      EXPECT_TRUE(is_whole(folder)) << call;
      continue;
    }
    EXPECT_TRUE(fs::is_empty(folder.path())) << call;
    run(real_file_system(), folder);
    EXPECT_TRUE(is_whole(folder)) << call;
  }
}

TEST_P(WriteFaults, OfAFullDiskAreReportedAndLeaveNothingBehind) {
  int64_t bytes = 0;
  for (const auto& [name, content] : expected_) bytes += std::ssize(content);
  for (const int64_t capacity : {int64_t{0}, int64_t{1}, bytes / 4, bytes / 2, bytes - 1}) {
    const ScratchFolder folder;
    FullDisk disk(capacity);
    EXPECT_THAT(error(disk, folder), HasSubstr("No space left on device")) << capacity;
    EXPECT_TRUE(fs::is_empty(folder.path())) << capacity;
  }
  const ScratchFolder folder;
  FullDisk disk(bytes);
  EXPECT_EQ(error(disk, folder), "no error");
}

TEST_P(WriteFaults, OfThePowerLeaveAllOrNothing) {
  for (int64_t call = 0; call <= calls_; ++call) {
    for (const bool undo_renames : {true, false}) {
      const ScratchFolder folder;
      CutPower files(call);
      bool is_finished = false;
      try {
        run(files, folder);
        is_finished = true;
      } catch (const PowerCut&) {
      }
      EXPECT_EQ(is_finished, call == calls_);
      files.lose_unsynced(undo_renames);
      EXPECT_TRUE(is_there(folder) ? is_whole(folder) : !is_finished) << call << undo_renames;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Of, WriteFaults,
    ::testing::Values(Task{"AnExport", run_export<ExportFormat::safetensors, int64_t{1} << 30>,
                           "out"},
                      Task{"AnExportInParts", run_export<ExportFormat::safetensors, 4096>, "out"},
                      Task{"AnExportAsGguf", run_export<ExportFormat::gguf, 0>, "out.gguf"},
                      Task{"AnImport", run_import, "out.h5"},
                      Task{"AnImportAsARun", run_import, "out"}),
    [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace sluice
