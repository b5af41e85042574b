// What a person does with checkpoints of other programs, as typed.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/data/tokenizers/byte_level_file.h"
#include "tests/end_to_end/program.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/tiny_run.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::Outcome;
using testing::run_program;
using testing::ScratchFolder;

class Interchange : public ::testing::Test {
 protected:
  void SetUp() override {
    std::ofstream(scratch_ / "tiny.yaml") << testing::tiny_recipe_text();
    const Outcome trained =
        sluice({"train", path("tiny.yaml"), "--out", path("run"), "--set", "train.steps=2"});
    ASSERT_EQ(trained.status, 0) << trained.errors;
  }
  Outcome sluice(const std::vector<std::string>& arguments) {
    return run_program(scratch_.path(), arguments);
  }
  [[nodiscard]] std::string path(const std::string& name) const {
    return (scratch_ / name).string();
  }

  ScratchFolder scratch_;
};

TEST_F(Interchange, AModelThatWentOutComesInAndGoesOn) {
  const Outcome out =
      sluice({"export", path("run"), "--out", path("model"), "--drop-selection-shift"});
  EXPECT_EQ(out.status, 0) << out.errors;
  EXPECT_THAT(out.output, HasSubstr("of a mixtral model, from step 2"));
  EXPECT_THAT(out.errors, HasSubstr("note: left out: the shift of loss_free_bias"));
  const Outcome in = sluice({"import", path("model"), "--out", path("model.h5")});
  EXPECT_EQ(in.status, 0) << in.errors;
  EXPECT_THAT(in.output, HasSubstr("of a mixtral model, pattern (AE)x2"));
  EXPECT_THAT(in.errors, IsEmpty());

  std::ofstream(scratch_ / "text.txt") << "aabbaabbaabbaabb";
  const Outcome loss = sluice({"eval", path("model.h5"), "--data", path("text.txt"), "--json"});
  EXPECT_EQ(loss.status, 0) << loss.errors;
  const Outcome text = sluice({"generate", path("model.h5"), "--prompt", "ab", "--tokens", "5"});
  EXPECT_EQ(text.status, 0) << text.errors;
  const Outcome trained = sluice({"train", path("tiny.yaml"), "--out", path("next"), "--set",
                                  "train.steps=1", "--set", "train.init_from=" + path("model.h5")});
  EXPECT_EQ(trained.status, 0) << trained.errors;
}

TEST_F(Interchange, ATokenizerOfAnotherModelTravelsAlong) {
  const std::string tokenizer =
      testing::byte_level_file({{"b", "e"}, {"t", "o"}, {" ", "to"}, {" ", "be"}}).dump(1);
  std::ofstream(scratch_ / "tokenizer.json") << tokenizer;
  std::ofstream text(scratch_ / "text.jsonl");
  for (int i = 0; i < 60; ++i) text << "{\"text\": \"to be or not to be \xC3\xA9 " << i << "\"}\n";
  text.close();
  std::ofstream(scratch_ / "pairs.yaml") << R"(
data:
  tokenizer: {type: tokenizer_json, path: tokenizer.json}
  sources: [{type: jsonl, path: text.jsonl}]
)";
  const Outcome prepared = sluice({"prepare", path("tiny.yaml"), path("pairs.yaml")});
  EXPECT_EQ(prepared.status, 0) << prepared.errors;
  EXPECT_THAT(prepared.output, HasSubstr("tokenizer_json, vocabulary 261"));
  const Outcome trained = sluice({"train", path("tiny.yaml"), path("pairs.yaml"), "--out",
                                  path("pairs"), "--set", "train.steps=2"});
  ASSERT_EQ(trained.status, 0) << trained.errors;

  const Outcome out =
      sluice({"export", path("pairs"), "--out", path("model"), "--drop-selection-shift"});
  EXPECT_EQ(out.status, 0) << out.errors;
  EXPECT_EQ(read_file(scratch_ / "model" / "tokenizer.json", raise_as<DataError>), tokenizer);
  const Outcome in = sluice({"import", path("model"), "--out", path("model.h5")});
  EXPECT_EQ(in.status, 0) << in.errors;
  for (const std::string& model : {path("pairs"), path("model.h5")}) {
    const Outcome told = sluice({"generate", model, "--prompt", "to be \xC3\xA9", "--tokens", "8"});
    EXPECT_EQ(told.status, 0) << told.errors;
    EXPECT_THAT(told.output, ::testing::StartsWith("to be \xC3\xA9"));
  }
}

TEST_F(Interchange, StatusesAreThoseOfOtherCommands) {
  EXPECT_EQ(sluice({"import", path("nothing"), "--out", path("a.h5")}).status, 2);
  EXPECT_EQ(sluice({"export", path("run"), "--out", path("b"), "--family", "llama"}).status, 2);
  ASSERT_EQ(
      sluice({"export", path("run"), "--out", path("model/"), "--drop-selection-shift"}).status, 0);
  fs::resize_file(scratch_ / "model" / "model.safetensors", 2000);
  const Outcome damaged = sluice({"import", path("model"), "--out", path("a.h5")});
  EXPECT_EQ(damaged.status, 1);
  EXPECT_THAT(damaged.errors, HasSubstr("truncated"));
  EXPECT_FALSE(fs::exists(scratch_ / "a.h5"));
  EXPECT_FALSE(fs::exists(scratch_ / "b"));
}

}  // namespace
}  // namespace sluice
