#include "autograd/support/file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "autograd/support/error.h"
#include "tests/support/faulty_file_system.h"
#include "tests/support/scratch_folder.h"

namespace sluice {
namespace {

using testing::CutPower;
using testing::FailingCall;
using testing::FullDisk;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::PowerCut;
using testing::ScratchFolder;
using ::testing::SizeIs;

constexpr RaiseError kRaise = raise_as<CheckpointError>;
const std::string kOld = "old contents";
const std::string kNew = "new contents, longer than the old ones";

size_t files_in(const std::filesystem::path& folder) {
  const auto range = std::filesystem::directory_iterator(folder);
  return static_cast<size_t>(std::distance(begin(range), end(range)));
}

std::string message_of_write(FileSystem& files, const std::filesystem::path& path) {
  try {
    write_file_atomically(files, path, bytes_of(kNew), kRaise);
  } catch (const CheckpointError& error) {
    return error.what();
  }
  return "";
}

TEST(WriteFileAtomically, ReplacesTheWholeFileAndLeavesNothingElse) {
  const ScratchFolder folder;
  for (const std::string& contents : {kOld, kNew, std::string()}) {
    write_file_atomically(real_file_system(), folder / "a", bytes_of(contents), kRaise);
    EXPECT_EQ(read_file(folder / "a", kRaise), contents);
    EXPECT_EQ(files_in(folder.path()), 1u);
  }
}

TEST(WriteFileAtomically, JoinsItsPieces) {
  const ScratchFolder folder;
  const std::vector<std::span<const std::byte>> pieces{bytes_of("one,"), {}, bytes_of("two")};
  write_file_atomically(real_file_system(), folder / "a", pieces, kRaise);
  EXPECT_EQ(read_file(folder / "a", kRaise), "one,two");
}

TEST(WriteFileAtomically, OnAFullDiskSaysSoAndKeepsTheOldFile) {
  const ScratchFolder folder;
  write_file_atomically(real_file_system(), folder / "a", bytes_of(kOld), kRaise);
  for (const int64_t capacity : {0, 1, 10}) {
    FullDisk disk(capacity);
    EXPECT_EQ(message_of_write(disk, folder / "a"),
              (folder / "a").string() + ": cannot write: No space left on device");
    EXPECT_EQ(read_file(folder / "a", kRaise), kOld);
    EXPECT_EQ(files_in(folder.path()), 1u);
  }
}

TEST(WriteFileAtomically, ReportsAFailureOfEverySingleCall) {
  const ScratchFolder folder;
  FailingCall none(-1);
  write_file_atomically(none, folder / "a", bytes_of(kOld), kRaise);
  for (int64_t call = 0; call < none.calls(); ++call) {
    FailingCall failing(call);
    EXPECT_THAT(message_of_write(failing, folder / "a"), HasSubstr("Input/output error")) << call;
    const std::string found = read_file(folder / "a", kRaise);
    EXPECT_TRUE(found == kOld || found == kNew) << call << ": " << found;
    EXPECT_EQ(files_in(folder.path()), 1u) << call;
  }
}

TEST(WriteFileAtomically, SurvivesAPowerCutAfterEveryCall) {
  FailingCall none(-1);
  {
    const ScratchFolder folder;
    write_file_atomically(none, folder / "a", bytes_of(kOld), kRaise);
  }
  for (int64_t call = 0; call <= none.calls(); ++call) {
    for (const bool undo_renames : {true, false}) {
      const ScratchFolder folder;
      write_file_atomically(real_file_system(), folder / "a", bytes_of(kOld), kRaise);
      CutPower files(call);
      bool finished = false;
      try {
        write_file_atomically(files, folder / "a", bytes_of(kNew), kRaise);
        finished = true;
      } catch (const PowerCut&) {
      }
      EXPECT_EQ(finished, call == none.calls());
      files.lose_unsynced(undo_renames);
      const std::string found = read_file(folder / "a", kRaise);
      EXPECT_TRUE(found == kNew || (found == kOld && !finished)) << call << ": " << found;
      // Whatever the cut left behind is swept up by the next run.
      (void)remove_stale_temporaries(real_file_system(), folder.path());
      EXPECT_EQ(files_in(folder.path()), 1u) << call;
    }
  }
}

TEST(RemoveStaleTemporaries, RemovesOnlyTemporaries) {
  const ScratchFolder folder;
  std::ofstream(folder / "step_00000200.h5.tmp-17") << "half";
  std::ofstream(folder / "step_00000100.h5") << "whole";
  EXPECT_THAT(remove_stale_temporaries(real_file_system(), folder.path()), SizeIs(1));
  EXPECT_TRUE(std::filesystem::exists(folder / "step_00000100.h5"));
  EXPECT_THAT(remove_stale_temporaries(real_file_system(), folder / "absent"), IsEmpty());
}

TEST(ReadFile, NamesAMissingFile) {
  const ScratchFolder folder;
  try {
    (void)read_file(folder / "absent", kRaise);
    FAIL();
  } catch (const CheckpointError& error) {
    EXPECT_EQ(error.what(),
              (folder / "absent").string() + ": cannot open: No such file or directory");
  }
}

TEST(AppendFile, GrowsAnExistingFile) {
  const ScratchFolder folder;
  for (const char* line : {"one\n", "two\n"}) {
    AppendFile file(real_file_system(), folder / "log", kRaise);
    file.append(bytes_of(line));
    file.sync();
  }
  EXPECT_EQ(read_file(folder / "log", kRaise), "one\ntwo\n");
}

TEST(AppendFile, SaysThatTheDiskIsFull) {
  const ScratchFolder folder;
  FullDisk disk(6);
  AppendFile file(disk, folder / "log", kRaise);
  file.append(bytes_of("one\n"));
  EXPECT_THROW(file.append(bytes_of("two\n")), CheckpointError);
}

TEST(PendingFile, AppearsWhenItIsPublished) {
  const ScratchFolder folder;
  {
    PendingFile file(real_file_system(), folder / "x", kRaise);
    std::ofstream(file.temporary()) << "new";
    EXPECT_FALSE(std::filesystem::exists(folder / "x"));
    file.publish();
  }
  EXPECT_EQ(read_file(folder / "x", kRaise), "new");
  { const PendingFile file(real_file_system(), folder / "x", kRaise); }
  EXPECT_EQ(read_file(folder / "x", kRaise), "new");
}

TEST(PendingFile, LeavesTheOldFileWhateverCallFails) {
  for (int64_t failing = 0; failing < 4; ++failing) {
    const ScratchFolder folder;
    std::ofstream(folder / "x") << "old";
    FailingCall files(failing);
    {
      PendingFile file(files, folder / "x", kRaise);
      std::ofstream(file.temporary()) << "new";
      EXPECT_THROW(file.publish(), CheckpointError) << "call " << failing;
    }
    EXPECT_EQ(read_file(folder / "x", kRaise), "old") << "call " << failing;
    EXPECT_FALSE(std::filesystem::exists(PendingFile(files, folder / "x", kRaise).temporary()));
  }
}

TEST(CreateFolders, CreatesParentsAndAcceptsWhatExists) {
  const ScratchFolder folder;
  const auto deep = folder.path() / "a" / "b" / "c";
  create_folders(real_file_system(), deep, kRaise);
  create_folders(real_file_system(), deep, kRaise);
  EXPECT_TRUE(std::filesystem::is_directory(deep));
  std::ofstream(folder / "file") << "x";
  EXPECT_THROW(create_folders(real_file_system(), folder.path() / "file" / "d", kRaise),
               CheckpointError);
}

}  // namespace
}  // namespace sluice
