// A dense run, adapters on top of it, and one model of both, as typed.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/end_to_end/program.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/tiny_run.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;
using testing::Outcome;
using testing::run_program;
using testing::ScratchFolder;

TEST(MergeAdaptersProgram, FoldsAnAdaptedRunIntoADenseModel) {
  const ScratchFolder folder;
  const auto file = [&](const std::string& name, const std::string& text) {
    std::ofstream(folder / name) << text;
    return (folder / name).string();
  };
  const std::string dense_model =
      "model: {pattern: (AF)x2, experts: ~, feed_forward: {intermediate_size: 12}";
  const std::string tiny = file("tiny.yaml", testing::tiny_recipe_text());
  const std::string dense = file("dense.yaml", dense_model + "}\nbalance: ~\ntrain: {steps: 2}\n");
  const std::string lora =
      file("lora.yaml", dense_model +
                            ", adapters: {a: {type: lora, linears: [attention.q]}}}\nbalance: ~\n"
                            "train: {steps: 2, init_from: dense}\n");
  const auto sluice = [&](const std::vector<std::string>& arguments) {
    return run_program(folder.path(), arguments);
  };
  const Outcome first = sluice({"train", tiny, dense, "--out", (folder / "dense").string()});
  ASSERT_EQ(first.status, 0) << first.errors;
  const Outcome second = sluice({"train", tiny, lora, "--out", (folder / "lora").string()});
  ASSERT_EQ(second.status, 0) << second.errors;

  const std::string merged = (folder / "merged.h5").string();
  const Outcome outcome = sluice({"merge-adapters", (folder / "lora").string(), "--out", merged});
  EXPECT_EQ(outcome.status, 0) << outcome.errors;
  EXPECT_THAT(outcome.output, HasSubstr("2 adapters merged into 2 weights, from step 2"));
  EXPECT_EQ(sluice({"eval", merged}).status, 0);

  // `export` merges by itself: the same files as those of the merged model.
  const Outcome by_hand = sluice({"export", merged, "--out", (folder / "by_hand").string()});
  EXPECT_EQ(by_hand.status, 0) << by_hand.errors;
  const Outcome exported =
      sluice({"export", (folder / "lora").string(), "--out", (folder / "exported").string()});
  EXPECT_EQ(exported.status, 0) << exported.errors;
  EXPECT_THAT(exported.errors, HasSubstr("note: merged: 2 adapters into 2 weights"));
  for (const char* name : {"model.safetensors", "config.json"}) {
    EXPECT_EQ(read_file(folder / "exported" / name, raise_as<DataError>),
              read_file(folder / "by_hand" / name, raise_as<DataError>))
        << name;
  }

  const Outcome again = sluice({"merge-adapters", (folder / "lora").string(), "--out", merged});
  EXPECT_EQ(again.status, 2);
  EXPECT_THAT(again.errors, HasSubstr("exists; remove it or name another file"));
  const std::string mora =
      file("mora.yaml", dense_model +
                            ", adapters: {a: {type: mora, rank: 4, top_k: 2, linears: "
                            "[attention.q]}}}\nbalance: ~\ntrain: {steps: 1, init_from: dense}\n");
  ASSERT_EQ(sluice({"train", tiny, mora, "--out", (folder / "mora").string()}).status, 0);
  const Outcome refused =
      sluice({"export", (folder / "mora").string(), "--out", (folder / "refused").string()});
  EXPECT_EQ(refused.status, 2);
  EXPECT_THAT(refused.errors, HasSubstr("merge-adapters: "));
  EXPECT_THAT(refused.errors, HasSubstr("is no one matrix: its ranks score themselves"));
  EXPECT_FALSE(std::filesystem::exists(folder / "refused"));
  const Outcome none = sluice(
      {"merge-adapters", (folder / "dense").string(), "--out", (folder / "other.h5").string()});
  EXPECT_EQ(none.status, 2);
  EXPECT_THAT(none.errors, HasSubstr("has no adapters"));
}

}  // namespace
}  // namespace sluice
