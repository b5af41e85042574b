// Files of ours in the programs that they are made for, and files of theirs in ours: transformers,
// tokenizers, SentencePiece, gguf, h5py, TensorBoard. The checks are in Python (other_programs/), which
// nothing else here needs: they are skipped, saying why, where the interpreter that SLUICE_TEST_PYTHON
// names (python3) or its packages are missing.

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "data/tokenizers/sentencepiece.h"
#include "tests/end_to_end/program.h"
#include "tests/support/family_cases.h"
#include "tests/support/made_up_checkpoint.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/tiny_run.h"
#include "train/interchange/export.h"
#include "train/interchange/tokenizer_files.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;
using testing::made_up_checkpoint;
using testing::Outcome;
using testing::Process;
using testing::ScratchFolder;

constexpr int kNotInstalled = 77;
constexpr int kNoSuchProgram = 127;

struct Family {
  std::string name;
  std::string model;  // with room for every tokenizer here
};

std::vector<Family> families() {
  const std::string dense =
      "hidden_size: 16, vocab_size: 600, feed_forward: {intermediate_size: 24}, ";
  return {{"llama", "model: {pattern: \"(AF)x2\", " + dense + "attention: {num_heads: 2}}"},
          {"qwen3", "model: {pattern: \"(AF)x2\", " + dense +
                        "attention: {num_heads: 2, qk_norm: per_head}}"},
          {"mamba2",
           "model: {pattern: Mx2, hidden_size: 16, vocab_size: 600, mamba2: {head_dim: 8}}"}};
}

Family qwen2() {
  return {"qwen2", R"(
model: {pattern: "(AF)x2", hidden_size: 16, vocab_size: 600, attention: {num_heads: 2, bias: qkv},
        feed_forward: {intermediate_size: 24}}
)"};
}

Checkpoint with_tokenizer(const std::string& model, const Tokenizer& tokenizer) {
  Checkpoint checkpoint = made_up_checkpoint(model);
  checkpoint.meta.tokenizer_kind = tokenizer.kind();
  checkpoint.meta.tokenizer = tokenizer.serialize();
  return checkpoint;
}

class OtherPrograms : public ::testing::Test {
 protected:
  /// Runs a group of checks; skips the test when what the group needs is missing.
  void check(const std::string& group, const fs::path& checkpoints = {}) {
    const char* named = std::getenv("SLUICE_TEST_PYTHON");
    const fs::path script =
        fs::path(SLUICE_SOURCE_DIR) / "tests" / "end_to_end" / "other_programs" / "check.py";
    std::vector<std::string> arguments = {"-B",        script.string(),
                                          group,       "--program",
                                          SLUICE_PROGRAM, "--folder",
                                          scratch_.path().string()};
    if (!checkpoints.empty()) {
      arguments.insert(arguments.end(), {"--checkpoints", checkpoints.string()});
    }
    const Outcome outcome =
        Process(scratch_.path(), arguments, {}, named != nullptr ? named : "python3").wait();
    if (outcome.status == kNotInstalled) GTEST_SKIP() << outcome.output;
    if (outcome.status == kNoSuchProgram) GTEST_SKIP() << "there is no Python interpreter";
    EXPECT_EQ(outcome.status, 0) << outcome.output << outcome.errors;
    ::testing::Test::RecordProperty("output", outcome.output);
  }

  void write(const Checkpoint& checkpoint, const fs::path& path) {
    fs::create_directories(path.parent_path());
    write_checkpoint(real_file_system(), path, checkpoint);
  }

  [[nodiscard]] static nlohmann::json read_json(const fs::path& path) {
    return nlohmann::json::parse(read_file(path, raise_as<DataError>));
  }

  ScratchFolder scratch_;
};

TEST_F(OtherPrograms, ComputeTheLogitsOfExportedFolders) {
  for (const testing::FamilyCase& one : testing::family_cases()) {
    write(made_up_checkpoint(one.model), scratch_ / "checkpoints" / (one.name + ".h5"));
  }
  check("folders", scratch_ / "checkpoints");
}

TEST_F(OtherPrograms, MakeModelsThatComeInAndGoBack) { check("models"); }

TEST_F(OtherPrograms, FindTheSameTokens) {
  check("make_tokenizers");
  if (IsSkipped() || HasFailure()) return;
  const fs::path folder = scratch_ / "tokenizers";
  const std::vector<std::string> strings = read_json(folder / "strings.json");
  for (const char* algorithm : {"bpe", "unigram"}) {
    SentencePieceConfig config;
    config.algorithm = algorithm;
    config.vocab_size = algorithm == std::string("bpe") ? 400 : 330;
    const auto corpus = [&](FunctionRef<void(std::string_view)> visit) { visit(strings.back()); };
    const fs::path made = folder / (std::string("sluice-") + algorithm);
    fs::create_directories(made);
    std::ofstream(made / "tokenizer.model", std::ios::binary)
        << train_sentencepiece(config, corpus);
  }
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (!entry.is_directory()) continue;
    const auto tokenizer = find_tokenizer(entry.path(), "").tokenizer;
    nlohmann::json ours = nlohmann::json::array();
    for (const std::string& text : strings) ours.push_back(tokenizer->encode(text));
    std::ofstream(entry.path() / "ours.json") << ours;
    std::vector<Family> models = families();
    if (entry.path().filename() == "qwen2") models.push_back(qwen2());
    for (const Family& family : models) {
      (void)export_model(
          with_tokenizer(family.model, *tokenizer), "made-up.h5",
          {.output = entry.path() / ("model-" + family.name), .family = family.name});
    }
  }
  check("check_tokenizers");
}

TEST_F(OtherPrograms, ReadAndWriteGgufFiles) {
  SentencePieceConfig config;
  config.vocab_size = 280;
  const std::string text = "to be or not to be, that is the question\n";
  const auto corpus = [&](FunctionRef<void(std::string_view)> visit) { visit(text); };
  const auto tokenizer = load_sentencepiece(train_sentencepiece(config, corpus));
  const std::string attention =
      "attention: {num_heads: 4, num_kv_heads: 2, rope_theta: 500000, max_position_embeddings: "
      "64}, norm: {eps: 1.0e-6}, hidden_size: 32, vocab_size: 300, ";
  write(with_tokenizer("model: {pattern: \"(AF)x2\", " + attention +
                           "tie_embeddings: false, feed_forward: {intermediate_size: 64}}",
                       *tokenizer),
        scratch_ / "checkpoints" / "llama.h5");
  write(with_tokenizer("model: {pattern: \"(AE)x2\", " + attention +
                           "experts: {num_experts: 4, top_k: 2, intermediate_size: 32, shared: "
                           "none}}\nbalance: {type: none}",
                       *tokenizer),
        scratch_ / "checkpoints" / "mixtral.h5");
  check("gguf_files", scratch_ / "checkpoints");
}

TEST_F(OtherPrograms, OpenTheFilesOfARun) {
  std::ofstream(scratch_ / "tiny.yaml") << testing::tiny_recipe_text();
  check("run_files");
}

}  // namespace
}  // namespace sluice
