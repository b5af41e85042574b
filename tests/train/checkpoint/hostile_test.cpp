// Checkpoints whose sums are right and whose contents are not: whoever writes one can add up too.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <span>
#include <vector>

#include "autograd/support/error.h"
#include "tests/support/error_of.h"
#include "tests/support/scratch_folder.h"
#include "train/checkpoint/layout.h"
#include "train/checkpoint/user_block.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;
using testing::error_of;
using testing::ScratchFolder;

/// What reading says of a checkpoint with one array of this shape, none of whose elements are written.
std::string error_of_shape(const std::vector<int64_t>& dims) {
  const ScratchFolder folder;
  auto file = hdf5::File::create_image("made up", raise_as<CheckpointError>,
                                       {.user_block_bytes = kUserBlockBytes});
  write_meta(file, {.recipe = "seed: 1\n", .tokenizer_kind = "bytes", .tokenizer = "bytes 257"});
  file.create_dataset("/model/w", ElementType::f32, dims);
  const std::span<const std::byte> image = file.image();
  std::vector<std::byte> bytes(image.begin(), image.end());
  const UserBlock block = make_user_block(std::span(bytes).subspan(kUserBlockBytes));
  std::memcpy(bytes.data(), block.data(), block.size());
  const auto path = folder / "a.h5";
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()), std::ssize(bytes));
  const std::string message = error_of<CheckpointError>([&] { (void)read_checkpoint(path); });
  EXPECT_EQ(error_of<CheckpointError>([&] { (void)read_checkpoint_summary(path); }), message);
  return message;
}

TEST(HostileCheckpoint, TakesNoMemoryForElementsThatAreNotThere) {
  EXPECT_THAT(error_of_shape({int64_t{1} << 40U}),
              HasSubstr("a.h5: /model/w is [1099511627776], 4398046511104 bytes, of which the file "
                        "holds 0"));
  EXPECT_THAT(error_of_shape({2, 3}),
              HasSubstr("/model/w is [2, 3], 24 bytes, of which the file holds 0"));
}

TEST(HostileCheckpoint, HasNoShapeWhoseSizeRunsOver) {
  EXPECT_THAT(error_of_shape({int64_t{1} << 30U, int64_t{1} << 20U}),
              HasSubstr("/model/w is [1073741824, 1048576], more than a file can hold"));
}

}  // namespace
}  // namespace sluice
