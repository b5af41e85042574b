#include "autograd/support/file.h"

#include <fcntl.h>
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

/// A megabyte and a bit, from a place that may go to the disk directly.
class LargeFile : public ::testing::Test {
 protected:
  static constexpr size_t kBytes = (size_t{1} << 20) + 3 * 4096 + 17;
  LargeFile() : storage_(kBytes + 2 * kDirectAlignment) {
    const auto start = reinterpret_cast<uintptr_t>(storage_.data());
    const size_t gap = kDirectAlignment - start % kDirectAlignment;
    contents_ = std::span(storage_).subspan(gap, kBytes);
    for (size_t i = 0; i < kBytes; ++i) contents_[i] = static_cast<std::byte>(i * 7 + i / 4096);
  }
  [[nodiscard]] bool is_in(const std::filesystem::path& path) const {
    return read_file(path, kRaise) ==
           std::string_view(reinterpret_cast<const char*>(contents_.data()), kBytes);
  }
  std::vector<std::byte> storage_;
  std::span<std::byte> contents_;
  ScratchFolder folder_;
};

TEST_F(LargeFile, IsWrittenWholeWhateverItsSizeAndPlace) {
  for (const size_t bytes : {kBytes, kBytes - 17, size_t{4096}, size_t{5}, size_t{0}}) {
    for (const size_t offset : {size_t{0}, size_t{1}}) {
      const auto part = contents_.subspan(offset, std::min(bytes, kBytes - offset));
      write_large_file_atomically(real_file_system(), folder_ / "a", part, kRaise);
      EXPECT_EQ(read_file(folder_ / "a", kRaise),
                std::string_view(reinterpret_cast<const char*>(part.data()), part.size()));
    }
  }
  EXPECT_EQ(files_in(folder_.path()), 1u);
}

TEST_F(LargeFile, IsWrittenThroughTheCacheWhereThatIsTheOnlyWay) {
  class Refusing : public FileSystem {
   public:
    explicit Refusing(bool opens) : opens_(opens) {}
    int open(const char* path, int flags) override {
      if ((flags & O_DIRECT) != 0 && !opens_) {
        errno = EINVAL;
        return -1;
      }
      direct_ = (flags & O_DIRECT) != 0;
      return FileSystem::open(path, flags);
    }
    ssize_t write(int descriptor, const void* data, size_t bytes) override {
      if (direct_ && accepted_++ > 0) {
        errno = EINVAL;
        return -1;
      }
      return FileSystem::write(descriptor, data, std::min<size_t>(bytes, 8192));
    }

   private:
    bool opens_;
    bool direct_ = false;
    int accepted_ = 0;
  };
  for (const bool opens : {false, true}) {
    Refusing files(opens);
    write_large_file_atomically(files, folder_ / "a", contents_, kRaise);
    EXPECT_TRUE(is_in(folder_ / "a")) << opens;
  }
}

TEST_F(LargeFile, ReportsAFailureOfEverySingleCallAndAFullDisk) {
  write_file_atomically(real_file_system(), folder_ / "a", bytes_of(kOld), kRaise);
  FailingCall none(-1);
  {
    const ScratchFolder elsewhere;
    write_large_file_atomically(none, elsewhere / "a", contents_, kRaise);
  }
  const auto message = [&](FileSystem& files) -> std::string {
    try {
      write_large_file_atomically(files, folder_ / "a", contents_, kRaise);
    } catch (const CheckpointError& error) {
      return error.what();
    }
    return "";
  };
  for (const int64_t capacity : {int64_t{0}, int64_t{5000}, int64_t{kBytes} - 1}) {
    FullDisk disk(capacity);
    EXPECT_THAT(message(disk), HasSubstr("cannot write: No space left on device"));
    EXPECT_EQ(read_file(folder_ / "a", kRaise), kOld);
  }
  for (int64_t call = 0; call < none.calls(); ++call) {
    FailingCall failing(call);
    EXPECT_THAT(message(failing), HasSubstr("Input/output error")) << call;
    EXPECT_TRUE(read_file(folder_ / "a", kRaise) == kOld || is_in(folder_ / "a")) << call;
    EXPECT_EQ(files_in(folder_.path()), 1u) << call;
  }
}

TEST_F(LargeFile, SurvivesAPowerCutAfterEveryCall) {
  FailingCall none(-1);
  write_large_file_atomically(none, folder_ / "a", contents_, kRaise);
  for (int64_t call = 0; call <= none.calls(); ++call) {
    for (const bool undo_renames : {true, false}) {
      const ScratchFolder folder;
      write_file_atomically(real_file_system(), folder / "a", bytes_of(kOld), kRaise);
      CutPower files(call);
      bool finished = false;
      try {
        write_large_file_atomically(files, folder / "a", contents_, kRaise);
        finished = true;
      } catch (const PowerCut&) {
      }
      EXPECT_EQ(finished, call == none.calls());
      files.lose_unsynced(undo_renames);
      const bool is_new = is_in(folder / "a");
      EXPECT_TRUE(is_new || (!finished && read_file(folder / "a", kRaise) == kOld)) << call;
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
