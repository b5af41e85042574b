#include "train/transforms/pack_experts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "tests/support/error_of.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/tiny_trained.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;
using testing::error_of;
using testing::logits_of;
using testing::ScratchFolder;
using testing::tiny_checkpoint;

TEST(PackedExperts, ComputeWhatTheyComputedBefore) {
  for (const auto& [dtype, tolerance] : {std::pair{"f32", 1e-5}, {"f64", 1e-12}}) {
    const Checkpoint before = tiny_checkpoint(
        fmt::format("model: {{dtype: {}, experts: {{form: {{type: ternary}}}}}}", dtype), 3);
    const PackedExperts packed = pack_experts(before, "before.h5");
    // Two layers of 4 experts of 3 matrices, 12 x 16.
    EXPECT_EQ(packed.weights, 2 * 4 * 3 * 12 * 16);
    const ScratchFolder folder;
    const std::filesystem::path whole = folder / "whole.h5";
    const std::filesystem::path small = folder / "small.h5";
    Checkpoint plain = packed.checkpoint;
    for (const auto& [path, array] : before.state) {
      if (path.find(".experts.") != std::string::npos && path.starts_with("model/")) {
        plain.state[path] = array;
      }
    }
    std::erase_if(plain.state, [](const auto& entry) { return entry.first.starts_with("packed/"); });
    write_checkpoint(real_file_system(), whole, plain);
    write_checkpoint(real_file_system(), small, packed.checkpoint);
    const auto saved = std::filesystem::file_size(whole) - std::filesystem::file_size(small);
    EXPECT_GT(saved, static_cast<uintmax_t>(packed.weights) * 2);

    const std::vector<double> expected = logits_of(read_checkpoint(whole));
    const std::vector<double> found = logits_of(read_checkpoint(small));
    ASSERT_EQ(found.size(), expected.size());
    for (size_t i = 0; i < found.size(); ++i) ASSERT_NEAR(found[i], expected[i], tolerance) << i;
  }
}

TEST(PackedExperts, AreTernary) {
  EXPECT_THAT(
      error_of<ConfigError>([] { (void)pack_experts(tiny_checkpoint(), "tiny.h5"); }),
      HasSubstr("tiny.h5: the model has no ternary experts (model.experts.form: ternary) to pack"));
}

}  // namespace
}  // namespace sluice
