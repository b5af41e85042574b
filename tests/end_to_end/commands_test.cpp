// What a person does with a trained model: generate, eval, inspect, verify, as typed.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>

#include "autograd/support/hdf5.h"
#include "balance/make.h"
#include "layers/router.h"
#include "tests/end_to_end/program.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/tiny_run.h"
#include "train/checkpoint/store.h"

namespace sluice {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using testing::Outcome;
using testing::run_program;
using testing::ScratchFolder;
using ::testing::StartsWith;

/// One run of 8 steps with checkpoints after 4 and 8, trained once for all tests here.
class Commands : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    shared_ = std::make_unique<ScratchFolder>();
    std::ofstream(recipe()) << testing::tiny_recipe_text();
    const Outcome trained =
        run_program(shared_->path(), {"train", recipe(), "--out", run_folder()});
    ASSERT_EQ(trained.status, 0) << trained.errors;
  }
  static void TearDownTestSuite() { shared_.reset(); }

  static std::string recipe() { return (*shared_ / "tiny.yaml").string(); }
  static std::string run_folder() { return (*shared_ / "run").string(); }
  static std::string checkpoint(int64_t step) {
    return (*shared_ / "run" / "checkpoints" / checkpoint_name(step)).string();
  }
  Outcome sluice(const std::vector<std::string>& arguments) {
    return run_program(scratch_.path(), arguments);
  }
  /// A file of this test.
  std::string write(const std::string& name, std::string_view content) {
    std::ofstream(scratch_ / name, std::ios::binary) << content;
    return (scratch_ / name).string();
  }
  /// The last checkpoint, with a byte changed.
  std::string damaged_checkpoint() {
    const std::filesystem::path copy = scratch_ / "damaged.h5";
    std::filesystem::copy_file(checkpoint(8), copy);
    std::fstream file(copy, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(5000);
    file.put('\x5A');
    file.put('\xA5');
    return copy.string();
  }

  static std::unique_ptr<ScratchFolder> shared_;
  ScratchFolder scratch_;
};

std::unique_ptr<ScratchFolder> Commands::shared_;

// --- generate ------------------------------------------------------------------------------------

TEST_F(Commands, GenerateWritesTheTextAndNothingElse) {
  const Outcome outcome = sluice({"generate", run_folder(), "--prompt", "abc", "--tokens", "20"});
  EXPECT_EQ(outcome.status, 0);
  EXPECT_THAT(outcome.output, AllOf(StartsWith("abc"), ::testing::EndsWith("\n")));
  EXPECT_THAT(outcome.errors, IsEmpty());
}

TEST_F(Commands, GenerateGivesEqualTextForEqualSeedsFromFileAndRun) {
  const std::vector<std::string> flags = {"--prompt", "abc", "--seed", "5", "--samples", "2"};
  const auto generate = [&](const std::string& model) {
    std::vector<std::string> all = {"generate", model};
    all.insert(all.end(), flags.begin(), flags.end());
    return sluice(all).output;
  };
  const std::string text = generate(run_folder());
  EXPECT_THAT(text, HasSubstr("\n<|endoftext|>\nabc"));
  EXPECT_EQ(generate(checkpoint(8)), text);
  EXPECT_NE(generate(checkpoint(4)), text);
}

TEST_F(Commands, GenerateReadsItsPromptFromAFileAndCanHideIt) {
  const std::string file = write("prompt.txt", "line\nline ");
  const std::vector<std::string> common = {"generate", run_folder(), "--prompt-file", file,
                                           "--tokens", "5",          "--temperature", "0"};
  const std::string with_prompt = sluice(common).output;
  EXPECT_THAT(with_prompt, StartsWith("line\nline "));
  std::vector<std::string> hidden = common;
  hidden.emplace_back("--hide-prompt");
  EXPECT_EQ("line\nline " + sluice(hidden).output, with_prompt);
}

TEST_F(Commands, GenerateNeedsNothingButTheCheckpoint) {
  const std::string alone = (scratch_ / "alone.h5").string();
  std::filesystem::copy_file(checkpoint(8), alone);
  EXPECT_EQ(sluice({"generate", alone, "--tokens", "3"}).status, 0);
}

TEST_F(Commands, GenerateRefusesBadFlagsWithStatusTwo) {
  const auto error = [&](std::vector<std::string> flags) {
    flags.insert(flags.begin(), {"generate", run_folder()});
    const Outcome outcome = sluice(flags);
    EXPECT_EQ(outcome.status, 2) << outcome.errors;
    EXPECT_THAT(outcome.output, IsEmpty());
    return outcome.errors;
  };
  EXPECT_THAT(error({"--top-p", "2"}), HasSubstr("sluice: --top-p: found 2, allowed"));
  EXPECT_THAT(error({"--temperature", "-1"}), HasSubstr("--temperature: found -1"));
  EXPECT_THAT(error({"--tokens", "0"}), HasSubstr("--tokens: found 0, allowed 1 or more"));
  EXPECT_THAT(error({"--tokens", "many"}), HasSubstr("--tokens"));
  EXPECT_THAT(error({"--samples", "0"}), HasSubstr("--samples: found 0"));
  EXPECT_THAT(error({"--stop-token", "999"}),
              HasSubstr("--stop-token: found 999, allowed 0 to 256"));
  EXPECT_THAT(error({"--stop", ""}), HasSubstr("--stop: found an empty text"));
  EXPECT_THAT(error({"--prompt-file", "none.txt"}), HasSubstr("none.txt"));
  EXPECT_THAT(error({"--prompt", std::string(9000, 'a')}),
              HasSubstr("--prompt: found 9000 tokens, allowed at most 8191"));
}

TEST_F(Commands, GenerateRefusesAPromptThatIsNoText) {
  const std::string file = write("prompt.txt", "ab\xFF");
  const Outcome outcome = sluice({"generate", run_folder(), "--prompt-file", file});
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.errors, HasSubstr("invalid UTF-8 at byte 2"));
}

// --- what is not there, or not whole -------------------------------------------------------------

TEST_F(Commands, NameAMissingModelWithStatusTwo) {
  for (const char* verb : {"generate", "eval", "inspect"}) {
    const Outcome outcome = sluice({verb, (scratch_ / "none").string()});
    EXPECT_EQ(outcome.status, 2) << verb;
    EXPECT_THAT(outcome.errors, HasSubstr("no such checkpoint file or run folder")) << verb;
  }
}

TEST_F(Commands, NameADamagedCheckpointWithStatusOne) {
  const std::string damaged = damaged_checkpoint();
  for (const char* verb : {"generate", "eval", "inspect"}) {
    const Outcome outcome = sluice({verb, damaged});
    EXPECT_EQ(outcome.status, 1) << verb;
    EXPECT_THAT(outcome.errors, AllOf(StartsWith("sluice: "), HasSubstr("damaged.h5: "))) << verb;
    EXPECT_THAT(outcome.output, IsEmpty()) << verb;
  }
}

TEST_F(Commands, NameAForeignFileWithStatusOne) {
  const std::string foreign = write("notes.txt", "These are notes and no checkpoint.\n");
  const Outcome outcome = sluice({"inspect", foreign});
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.errors, HasSubstr("notes.txt: "));
}

TEST_F(Commands, PassOverADamagedCheckpointOfARunWithANote) {
  const std::filesystem::path run = scratch_ / "run";
  std::filesystem::create_directories(run / "checkpoints");
  std::filesystem::copy_file(checkpoint(4), run / "checkpoints" / checkpoint_name(4));
  std::filesystem::copy_file(damaged_checkpoint(), run / "checkpoints" / checkpoint_name(8));
  const Outcome outcome = sluice({"generate", run.string(), "--tokens", "3"});
  EXPECT_EQ(outcome.status, 0);
  EXPECT_THAT(outcome.errors, AllOf(StartsWith("note: "), HasSubstr(checkpoint_name(8))));
  EXPECT_EQ(outcome.output, sluice({"generate", checkpoint(4), "--tokens", "3"}).output);
}

// --- eval ----------------------------------------------------------------------------------------

TEST_F(Commands, EvalGivesTheHeldOutLossOfTheCheckpoint) {
  const auto json = nlohmann::json::parse(sluice({"eval", run_folder(), "--json"}).output);
  EXPECT_EQ(json.at("step"), 8);
  EXPECT_EQ(json.at("all").at("loss").get<double>(),
            *read_checkpoint(checkpoint(8)).meta.eval_loss);
  EXPECT_TRUE(json.at("domains").contains("a"));
  EXPECT_TRUE(json.at("domains").contains("b"));
  ASSERT_EQ(json.at("loads").size(), 2u);
  const auto& layer = json.at("loads").at(0);
  EXPECT_EQ(layer.at("experts_per_token"), 2.0);
  int64_t of_domains = 0;
  for (const auto& domain : layer.at("domains")) {
    of_domains += domain.at("counts").at(0).get<int64_t>();
    EXPECT_GE(domain.at("specialisation").get<double>(), 1.0);
  }
  EXPECT_EQ(layer.at("counts").at(0), of_domains);
}

TEST_F(Commands, EvalPrintsATableForPeople) {
  const Outcome outcome = sluice({"eval", run_folder()});
  EXPECT_EQ(outcome.status, 0);
  EXPECT_THAT(outcome.output,
              AllOf(HasSubstr("step 8, 1,024 training tokens"), HasSubstr("bits per byte"),
                    HasSubstr("\nall "), HasSubstr("\nexpert layer"), HasSubstr("congestion"),
                    HasSubstr("favourite expert of each domain")));
}

TEST_F(Commands, EvalReadsOtherFilesByDomain) {
  const std::string prose = write("prose.txt", "It was a dark and stormy night.\n");
  const std::string code = write("code.txt", "int main() {}\n");
  const Outcome outcome =
      sluice({"eval", run_folder(), "--json", "--data", prose, "--data", code + ",programs"});
  const auto json = nlohmann::json::parse(outcome.output);
  EXPECT_EQ(json.at("domains").at("prose").at("tokens"), 32);
  EXPECT_EQ(json.at("domains").at("programs").at("tokens"), 14);
}

TEST_F(Commands, EvalDumpsLogits) {
  const std::string tokens = write("tokens.bin", std::string("\x01\x00\x02\x00\x03\x00", 6));
  const std::string logits = (scratch_ / "logits.h5").string();
  const Outcome outcome =
      sluice({"eval", run_folder(), "--dump-logits", logits, "--tokens", tokens});
  EXPECT_EQ(outcome.status, 0) << outcome.errors;
  const auto file = hdf5::File::open(logits, raise_as<DataError>);
  EXPECT_THAT(file.info("/logits").dims, ::testing::ElementsAre(3, 257));
  EXPECT_EQ(file.read<int32_t>("/tokens"), (std::vector<int32_t>{1, 2, 3}));
}

TEST_F(Commands, EvalRefusesHalfOfADump) {
  const Outcome outcome = sluice({"eval", run_folder(), "--dump-logits", "x.h5"});
  EXPECT_EQ(outcome.status, 2);
  EXPECT_THAT(outcome.errors, HasSubstr("--dump-logits and --tokens go together"));
}

// --- inspect -------------------------------------------------------------------------------------

TEST_F(Commands, InspectShowsARunAndItsRecipe) {
  const Outcome outcome = sluice({"inspect", run_folder(), "--parameters"});
  EXPECT_EQ(outcome.status, 0);
  EXPECT_THAT(outcome.output,
              AllOf(HasSubstr("2 checkpoints"), HasSubstr("step        8 of 8, 1,024 tokens"),
                    HasSubstr("balance     loss_free_bias"), HasSubstr("layers.1.experts.w_up")));
  const std::string recipe_text = sluice({"inspect", run_folder(), "--recipe"}).output;
  EXPECT_EQ(recipe_text, read_checkpoint(checkpoint(8)).meta.recipe);
  EXPECT_TRUE(nlohmann::json::accept(sluice({"inspect", checkpoint(4), "--json"}).output));
}

TEST_F(Commands, InspectFailsWhereNoCheckpointIsWhole) {
  const std::filesystem::path run = scratch_ / "run";
  std::filesystem::create_directories(run / "checkpoints");
  std::filesystem::copy_file(damaged_checkpoint(), run / "checkpoints" / checkpoint_name(8));
  for (const bool as_json : {false, true}) {
    std::vector<std::string> arguments = {"inspect", run.string()};
    if (as_json) arguments.emplace_back("--json");
    const Outcome outcome = sluice(arguments);
    EXPECT_EQ(outcome.status, 1);
    EXPECT_EQ(outcome.errors, fmt::format("sluice: {}: no checkpoint is whole: 1 checkpoint found, "
                                          "all damaged\n",
                                          run.string()));
    // What is there is shown all the same.
    EXPECT_THAT(outcome.output, HasSubstr(checkpoint_name(8)));
    EXPECT_EQ(as_json, nlohmann::json::accept(outcome.output));
  }
  // A run that has saved nothing yet.
  std::filesystem::remove(run / "checkpoints" / checkpoint_name(8));
  std::filesystem::copy_file(recipe(), run / "recipe.yaml");
  EXPECT_EQ(sluice({"inspect", run.string()}).status, 0);
}

// --- report --------------------------------------------------------------------------------------

TEST_F(Commands, ReportMakesTheFolderOfItsPage) {
  const std::filesystem::path page = scratch_ / "new" / "pages" / "run.html";
  EXPECT_EQ(sluice({"report", run_folder(), "--out", page.string()}).status, 0);
  EXPECT_TRUE(std::filesystem::exists(page));
  EXPECT_EQ(sluice({"report", run_folder(), "--out", page.parent_path().string()}).status, 0);
  EXPECT_TRUE(std::filesystem::exists(page.parent_path() / "report.html"));
}

TEST_F(Commands, ReportRefusesAFile) {
  const Outcome outcome = sluice({"report", recipe()});
  EXPECT_EQ(outcome.status, 2);
  EXPECT_THAT(outcome.errors, HasSubstr("tiny.yaml: is a file; give the folder of a run"));
}

// --- verify --------------------------------------------------------------------------------------

TEST_F(Commands, VerifyResumeHolds) {
  const Outcome outcome = sluice({"verify", "resume", recipe(), "--steps", "3"});
  EXPECT_EQ(outcome.status, 0) << outcome.errors;
  EXPECT_THAT(outcome.output, AllOf(HasSubstr("6 steps, and 3 + checkpoint + 3"),
                                    HasSubstr("identical, bit for bit")));
}

TEST_F(Commands, VerifyResumeHalvesAShortRun) {
  const Outcome outcome = sluice({"verify", "resume", recipe()});
  EXPECT_EQ(outcome.status, 0) << outcome.errors;
  EXPECT_THAT(outcome.output, HasSubstr("8 steps, and 4 + checkpoint + 4"));
}

TEST_F(Commands, VerifyResumeTakesChangesAndRefusesTooManySteps) {
  EXPECT_EQ(
      sluice({"verify", "resume", recipe(), "--steps", "5", "--set", "train.steps=10"}).status, 0);
  const Outcome outcome = sluice({"verify", "resume", recipe(), "--steps", "5"});
  EXPECT_EQ(outcome.status, 2);
  EXPECT_THAT(outcome.errors, HasSubstr("--steps: found 5, allowed 1 to 4"));
}

TEST_F(Commands, VerifyResumeHoldsWhereExpertsArePruned) {
  const std::string pruning =
      "train.pruning={calibration_tokens: 256, stages: [{step: 3, method: {type: prune, "
      "num_experts: 3}}, {step: 5, method: {type: slim, intermediate_size: 8}}]}";
  const Outcome verified = sluice({"verify", "resume", recipe(), "--set", pruning});
  EXPECT_EQ(verified.status, 0) << verified.output << verified.errors;
  const Outcome planned = sluice({"plan", recipe(), "--set", pruning});
  EXPECT_EQ(planned.status, 0) << planned.errors;
  EXPECT_THAT(planned.output,
              AllOf(HasSubstr("parameters over the run (train.pruning)"), HasSubstr("after step 3"),
                    HasSubstr("after step 5")));
}

TEST_F(Commands, VerifyIsolationHoldsForRecipeCheckpointAndRun) {
  for (const std::string& model : {recipe(), checkpoint(4), run_folder()}) {
    const Outcome outcome = sluice({"verify", "isolation", model});
    EXPECT_EQ(outcome.status, 0) << outcome.errors;
    EXPECT_THAT(outcome.output, HasSubstr("documents are isolated\n"));
  }
}

TEST_F(Commands, VerifyIsolationReportsWhatIsDeclared) {
  const Outcome outcome = sluice({"verify", "isolation", recipe(), "--set", "balance={type: bip}"});
  EXPECT_EQ(outcome.status, 0) << outcome.errors;
  EXPECT_THAT(outcome.output, HasSubstr("declared    balance: bip"));
  EXPECT_EQ(sluice({"verify", "isolation", run_folder(), "--set", "seed=2"}).status, 2);
}

// --- help ----------------------------------------------------------------------------------------

TEST_F(Commands, EndTheirHelpInAnExample) {
  const std::vector<std::vector<std::string>> verbs = {
      {"generate"},         {"eval"},
      {"inspect"},          {"verify"},
      {"verify", "resume"}, {"verify", "isolation"},
      {"import"},           {"export"},
      {"upcycle"},          {"transform"},
      {"merge-adapters"},   {"extract-adapters"}};
  for (std::vector<std::string> verb : verbs) {
    verb.emplace_back("--help");
    const Outcome outcome = sluice(verb);
    EXPECT_EQ(outcome.status, 0) << verb.front();
    const size_t example = outcome.output.rfind("\nExample: sluice " + verb.front());
    ASSERT_NE(example, std::string::npos) << outcome.output;
    EXPECT_THAT(outcome.output.substr(example + 1), Not(HasSubstr("\n\n\n")));
  }
}

TEST(RecipesLs, ShowsRecipesByFolderAndEveryMethodWithItsPaper) {
  const ScratchFolder scratch;
  const Outcome listed = run_program(scratch.path(), {"recipes", "ls"});
  EXPECT_EQ(listed.status, 0) << listed.errors;
  EXPECT_THAT(listed.output, StartsWith("recipes\n"));
  EXPECT_THAT(listed.output, HasSubstr("\n  quickstart "));
  EXPECT_THAT(listed.output, HasSubstr("\nrecipes: routers\n"));
  const size_t methods = listed.output.find("\nbalancing methods, balance: {type: ...}\n");
  const size_t routers = listed.output.find("\nrouters, model.experts.router: {type: ...}\n");
  ASSERT_NE(methods, std::string::npos);
  ASSERT_NE(routers, std::string::npos);
  const auto expect_all = [&](std::span<const Choice> choices, size_t begin, size_t end) {
    const std::string section = listed.output.substr(begin, end - begin);
    for (const Choice& choice : choices) {
      EXPECT_THAT(section, HasSubstr("\n  " + std::string(choice.name) + " "));
      EXPECT_THAT(section, HasSubstr("  " + std::string(choice.doc) + "\n"));
    }
  };
  expect_all(balance_choices(), methods, routers);
  expect_all(router_choices(), routers, std::string::npos);
}

TEST(RecipesCat, FindsARecipeOfASubfolder) {
  const ScratchFolder scratch;
  const Outcome printed = run_program(scratch.path(), {"recipes", "cat", "top_p"});
  EXPECT_EQ(printed.status, 0) << printed.errors;
  EXPECT_THAT(printed.output, HasSubstr("type: top_p"));
  EXPECT_EQ(run_program(scratch.path(), {"recipes", "cat", "routers/top_p"}).output,
            printed.output);
}

}  // namespace
}  // namespace sluice
