// Every family, out and in again: nothing of the model may change on the way.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "tests/support/family_cases.h"
#include "tests/support/made_up_checkpoint.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/tiny_trained.h"
#include "train/interchange/export.h"
#include "train/interchange/family.h"
#include "train/interchange/import.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;
using testing::family_cases;
using testing::FamilyCase;
using testing::logits_of;
using testing::made_up_checkpoint;
using testing::ScratchFolder;

std::string read_all(const fs::path& path) { return read_file(path, raise_as<DataError>); }

StateDict model_state(const Checkpoint& checkpoint) {
  StateDict state;
  for (const auto& [path, array] : checkpoint.state) {
    if (path.starts_with("model/") || path.ends_with("loss_free_bias/bias")) {
      state.emplace(path, array);
    }
  }
  return state;
}

class RoundTrip : public ::testing::TestWithParam<FamilyCase> {
 protected:
  Checkpoint there_and_back(const Checkpoint& checkpoint, const ExportOptions& options) {
    ExportOptions out = options;
    out.output = folder_ / fmt::format("out{}", ++trips_);
    family_ = export_model(checkpoint, "made-up.h5", out).family;
    const fs::path file = folder_ / fmt::format("in{}.h5", trips_);
    (void)import_model({.source = out.output, .output = file});
    return read_checkpoint(file);
  }
  [[nodiscard]] fs::path exported(int trip) const { return folder_ / fmt::format("out{}", trip); }

  ScratchFolder folder_;
  std::string family_;
  int trips_ = 0;
};

TEST_P(RoundTrip, ChangesNoBitOfTheModel) {
  const Checkpoint before = made_up_checkpoint(GetParam().model);
  for (const StoredType type : {StoredType::f32, StoredType::f16, StoredType::bf16}) {
    const Checkpoint after = there_and_back(before, {.type = type});
    EXPECT_EQ(family_, GetParam().family);
    EXPECT_EQ(model_state(after), model_state(before)) << name_of(type);
    EXPECT_EQ(after.meta.tokenizer_kind, before.meta.tokenizer_kind);
    EXPECT_EQ(after.meta.tokenizer, before.meta.tokenizer);
  }
}

TEST_P(RoundTrip, ChangesNoLogit) {
  const Checkpoint before = made_up_checkpoint(GetParam().model);
  const Checkpoint after = there_and_back(before, {});
  TrainedModel a = build_trained_model(before, "before");
  TrainedModel b = build_trained_model(after, "after");
  const std::vector<int32_t> tokens = {5, 99, 250, 7, 7, 31, 128, 0, 64};
  EXPECT_EQ(logits_of(a, tokens), logits_of(b, tokens));
}

TEST_P(RoundTrip, GivesTheSameFilesAgain) {
  const Checkpoint first = there_and_back(made_up_checkpoint(GetParam().model), {});
  (void)there_and_back(first, {});
  for (const char* name :
       {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}) {
    EXPECT_EQ(read_all(exported(1) / name), read_all(exported(2) / name)) << name;
  }
}

TEST_P(RoundTrip, GoesThroughSeveralFiles) {
  const Checkpoint before = made_up_checkpoint(GetParam().model);
  const Checkpoint after = there_and_back(before, {.max_file_bytes = 4096});
  EXPECT_TRUE(fs::exists(exported(1) / "model.safetensors.index.json"));
  EXPECT_EQ(model_state(after), model_state(before));
}

INSTANTIATE_TEST_SUITE_P(OfEachFamily, RoundTrip, ::testing::ValuesIn(family_cases()),
                         [](const auto& test) { return test.param.name; });

TEST(Families, AllMakeTheRoundTrip) {
  std::set<std::string> tested;
  for (const FamilyCase& one : family_cases()) tested.insert(one.family);
  for (const std::string_view name : family_registry().names()) {
    EXPECT_TRUE(tested.contains(std::string(name))) << name;
  }
}

}  // namespace
}  // namespace sluice
