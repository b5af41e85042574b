#include "train/checkpoint/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <fstream>

#include "autograd/support/checksum.h"
#include "autograd/support/error.h"
#include "tests/support/faulty_file_system.h"
#include "tests/support/scratch_folder.h"

namespace sluice {
namespace {

using ::testing::AnyOf;
using testing::CutPower;
using ::testing::EndsWith;
using testing::FailingCall;
using testing::FullDisk;
using ::testing::HasSubstr;
using testing::PowerCut;
using testing::ScratchFolder;
using ::testing::StartsWith;

template <class T>
StateArray array_of(std::vector<int64_t> dims, const std::vector<T>& values) {
  const auto bytes = std::as_bytes(std::span<const T>(values));
  return {element_type_of<T>, std::move(dims), {bytes.begin(), bytes.end()}};
}

Checkpoint small_checkpoint(int64_t step = 200) {
  Checkpoint c;
  c.meta = {.step = step,
            .tokens = 8192 * step,
            .train_tokens = 1'000'000,
            .eval_loss = 2.25,
            .recipe = "seed: 1\nmodel:\n  pattern: \"(AE)x2\"\n",
            .tokenizer_kind = "sentencepiece",
            .tokenizer = std::string("\x00\x01\xff tokenizer \x00", 15),
            .build = build_fingerprint()};
  c.state["model/layers.0.experts.w_up"] =
      array_of<float>({2, 2}, {1.5f, -0.0f, 1e-40f, std::numeric_limits<float>::quiet_NaN()});
  c.state["optim/layers.0.experts.w_up/m"] = array_of<float>({2, 2}, {1, 2, 3, 4});
  c.state["optim/steps"] = array_of<int64_t>({}, {step});
  c.state["balance/layers.0/bias"] = array_of<double>({3}, {0.1, 0.2, 0.3});
  c.state["data/remainder"] = array_of<int32_t>({0}, {});
  return c;
}

void write(const std::filesystem::path& path, const Checkpoint& checkpoint) {
  write_checkpoint(real_file_system(), path, checkpoint);
}

std::string contents_of(const std::filesystem::path& path) {
  return read_file(path, raise_as<CheckpointError>);
}

void replace(const std::filesystem::path& path, const std::string& contents) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << contents;
}

// The message without the file's name, or "read" when it could be read.
std::string reading(const std::filesystem::path& path) {
  try {
    (void)read_checkpoint(path);
  } catch (const CheckpointError& error) {
    const std::string message = error.what();
    EXPECT_THAT(message, StartsWith(path.string() + ": "));
    return message.substr(std::min(message.size(), path.string().size() + 2));
  }
  return "read";
}

TEST(Checkpoint, IsTheSameWhenTheStateIsGivenAway) {
  const ScratchFolder folder;
  Checkpoint given = small_checkpoint();
  write(folder / "kept.h5", given);
  write_checkpoint(real_file_system(), folder / "given.h5", std::move(given));
  EXPECT_EQ(contents_of(folder / "given.h5"), contents_of(folder / "kept.h5"));
  EXPECT_TRUE(given.state.empty());  // NOLINT(bugprone-use-after-move): what is promised
}

TEST(Checkpoint, RoundTripsEveryBit) {
  const ScratchFolder folder;
  const Checkpoint original = small_checkpoint();
  write(folder / "a.h5", original);
  const Checkpoint back = read_checkpoint(folder / "a.h5");
  EXPECT_EQ(back.state, original.state);
  EXPECT_EQ(back.meta.step, 200);
  EXPECT_EQ(back.meta.tokens, 8192 * 200);
  EXPECT_EQ(back.meta.train_tokens, 1'000'000);
  EXPECT_EQ(back.meta.eval_loss, 2.25);
  EXPECT_EQ(back.meta.recipe, original.meta.recipe);
  EXPECT_EQ(back.meta.tokenizer, original.meta.tokenizer);
  EXPECT_EQ(back.meta.tokenizer_kind, "sentencepiece");
  EXPECT_EQ(back.meta.build, build_fingerprint());
}

TEST(Checkpoint, WithoutEvaluationHasNoLoss) {
  const ScratchFolder folder;
  Checkpoint checkpoint = small_checkpoint();
  checkpoint.meta.eval_loss.reset();
  write(folder / "a.h5", checkpoint);
  EXPECT_EQ(read_checkpoint(folder / "a.h5").meta.eval_loss, std::nullopt);
}

TEST(Checkpoint, GivesTheSameBytesForTheSameContents) {
  const ScratchFolder folder;
  write(folder / "a.h5", small_checkpoint());
  write(folder / "b.h5", small_checkpoint());
  EXPECT_EQ(contents_of(folder / "a.h5"), contents_of(folder / "b.h5"));
}

TEST(Checkpoint, SummaryDescribesTheArrays) {
  const ScratchFolder folder;
  write(folder / "a.h5", small_checkpoint());
  const CheckpointSummary summary = read_checkpoint_summary(folder / "a.h5");
  EXPECT_EQ(summary.arrays.size(), 5u);
  EXPECT_EQ(summary.arrays.at("model/layers.0.experts.w_up").numel(), 4);
  EXPECT_EQ(summary.arrays.at("balance/layers.0/bias").type, ElementType::f64);
  EXPECT_EQ(summary.bytes, static_cast<int64_t>(contents_of(folder / "a.h5").size()));
}

TEST(Checkpoint, IsReadableWithOtherHdf5Tools) {
  if (std::system("command -v h5ls > /dev/null 2>&1") != 0) {
    GTEST_SKIP() << "h5ls (Debian: hdf5-tools) is not installed";
  }
  const ScratchFolder folder;
  write(folder / "a.h5", small_checkpoint());
  const std::string command =
      "h5ls -r " + (folder / "a.h5").string() + " > " + (folder / "listing").string() + " 2>&1";
  ASSERT_EQ(std::system(command.c_str()), 0);
  const std::string listing = contents_of(folder / "listing");
  EXPECT_THAT(listing, HasSubstr("/model/layers.0.experts.w_up Dataset {2, 2}"));
  EXPECT_THAT(listing, HasSubstr("/meta/recipe"));
  EXPECT_THAT(listing, HasSubstr("/optim/steps"));
}

TEST(Checkpoint, NoticesAFlipOfAnySingleByte) {
  const ScratchFolder folder;
  write(folder / "a.h5", small_checkpoint());
  const std::string good = contents_of(folder / "a.h5");
  // Every byte of the user block, and a stride through the rest that meets every kind of content.
  constexpr size_t kStride = 7;
  for (size_t i = 0; i < good.size(); i += i < 512 ? 1 : kStride) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 0x20);
    replace(folder / "b.h5", bad);
    EXPECT_THAT(reading(folder / "b.h5"),
                AnyOf(StartsWith("damaged: "), "not a checkpoint of sluice"))
        << "byte " << i;
  }
}

TEST(Checkpoint, NoticesEveryTruncation) {
  const ScratchFolder folder;
  write(folder / "a.h5", small_checkpoint());
  const std::string good = contents_of(folder / "a.h5");
  for (size_t size = 1; size < good.size(); size += size < 520 ? 1 : 97) {
    replace(folder / "b.h5", good.substr(0, size));
    EXPECT_THAT(reading(folder / "b.h5"), StartsWith("truncated: ")) << size;
  }
  replace(folder / "b.h5", good.substr(0, 600));
  EXPECT_EQ(reading(folder / "b.h5"), fmt::format("truncated: 600 bytes of {}", good.size()));
}

TEST(Checkpoint, NoticesBytesAtTheEnd) {
  const ScratchFolder folder;
  write(folder / "a.h5", small_checkpoint());
  const std::string good = contents_of(folder / "a.h5");
  replace(folder / "a.h5", good + "x");
  EXPECT_EQ(reading(folder / "a.h5"),
            fmt::format("damaged: {} bytes, {} were written", good.size() + 1, good.size()));
}

TEST(Checkpoint, RefusesForeignFiles) {
  const ScratchFolder folder;
  replace(folder / "empty.h5", "");
  EXPECT_EQ(reading(folder / "empty.h5"), "the file is empty");
  replace(folder / "text.h5", "seed: 1\n");
  EXPECT_EQ(reading(folder / "text.h5"), "not a checkpoint of sluice");
  auto plain = hdf5::File::create(folder / "plain.h5", raise_as<CheckpointError>);
  plain.write_text("/meta/recipe", "seed: 1");
  plain.close();
  EXPECT_EQ(reading(folder / "plain.h5"), "not a checkpoint of sluice");
  EXPECT_EQ(reading(folder / "none.h5"), "cannot open: No such file or directory");
  EXPECT_EQ(reading(folder.path()), "cannot read: Is a directory");
}

TEST(Checkpoint, RefusesANewerFormatByName) {
  const ScratchFolder folder;
  write(folder / "a.h5", small_checkpoint());
  std::string newer = contents_of(folder / "a.h5");
  newer[16] = 7;
  const uint64_t hash = xxh64(bytes_of(newer).first(40));
  std::memcpy(newer.data() + 40, &hash, sizeof(hash));
  replace(folder / "a.h5", newer);
  EXPECT_EQ(reading(folder / "a.h5"),
            "written in format 7 by a newer sluice; this one reads formats up to 1");
}

TEST(Checkpoint, ReadsFilesOfFormatOne) {
  const Checkpoint golden =
      read_checkpoint(SLUICE_SOURCE_DIR "/tests/golden/checkpoint_format_1.h5");
  Checkpoint expected = small_checkpoint();
  EXPECT_EQ(golden.state, expected.state);
  EXPECT_EQ(golden.meta.recipe, expected.meta.recipe);
  EXPECT_EQ(golden.meta.tokenizer, expected.meta.tokenizer);
}

TEST(Checkpoint, OnAFullDiskSaysSoAndHarmsNothing) {
  const ScratchFolder folder;
  write(folder / "a.h5", small_checkpoint(100));
  for (const int64_t capacity : {0, 511, 512, 3000}) {
    FullDisk disk(capacity);
    try {
      write_checkpoint(disk, folder / "a.h5", small_checkpoint(200));
      ADD_FAILURE() << capacity;
    } catch (const CheckpointError& error) {
      EXPECT_EQ(error.what(),
                (folder / "a.h5").string() + ": cannot write: No space left on device");
    }
    EXPECT_EQ(read_checkpoint(folder / "a.h5").meta.step, 100);
    EXPECT_TRUE(remove_stale_temporaries(real_file_system(), folder.path()).empty());
  }
}

TEST(Checkpoint, IntoAMissingFolderSaysSo) {
  const ScratchFolder folder;
  EXPECT_THROW(write(folder.path() / "absent" / "a.h5", small_checkpoint()), CheckpointError);
}

TEST(Checkpoint, IsOldOrNewAfterAPowerCutAtAnyCall) {
  FailingCall counter(-1);
  {
    const ScratchFolder folder;
    write_checkpoint(counter, folder / "a.h5", small_checkpoint());
  }
  for (int64_t call = 0; call < counter.calls(); ++call) {
    for (const bool undo_renames : {true, false}) {
      const ScratchFolder folder;
      write(folder / "a.h5", small_checkpoint(100));
      CutPower files(call);
      EXPECT_THROW(write_checkpoint(files, folder / "a.h5", small_checkpoint(200)), PowerCut);
      files.lose_unsynced(undo_renames);
      const Checkpoint found = read_checkpoint(folder / "a.h5");
      EXPECT_THAT(found.meta.step, AnyOf(100, 200)) << call;
      EXPECT_EQ(found.state, small_checkpoint(found.meta.step).state);
    }
  }
}

}  // namespace
}  // namespace sluice
