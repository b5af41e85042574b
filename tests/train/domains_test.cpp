#include "train/domains.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "autograd/support/error.h"
#include "tests/support/error_of.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/tiny_trained.h"
#include "train/evaluate_checkpoint.h"
#include "train/generate.h"
#include "train/verify_isolation.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using testing::error_of;
using ::testing::HasSubstr;
using testing::ScratchFolder;
using testing::tiny_recipe;
using testing::tiny_trained;

std::string mixer(int64_t domains, std::string_view more = "seed: 7") {
  return fmt::format(
      "model: {{experts: {{num_experts: 2, top_k: 1, router: {{type: mixer, domains: {}}}}}}}\n"
      "balance: {{type: none}}\n{}",
      domains, more);
}

TEST(Domains, AreThoseOfTheTrainingSourcesInOrder) {
  const Recipe recipe = tiny_recipe();
  EXPECT_THAT(training_domains(recipe.data), ElementsAre("a", "b"));
  EXPECT_FALSE(reads_domains(recipe));
  EXPECT_TRUE(reads_domains(tiny_recipe(mixer(2))));
  EXPECT_FALSE(reads_domains(testing::tiny_dense_recipe()));
}

TEST(Domains, OfTheRouterMustBeThoseOfTheData) {
  EXPECT_THAT(error_of<ConfigError>([] { (void)tiny_recipe(mixer(3)); }),
              HasSubstr("model.experts.router.domains: found 3, allowed 2, the domains of "
                        "data.sources (a, b)"));
}

TEST(Domains, OfHeldOutTextMustBeKnown) {
  // The default of held_out.fraction stands beside sources.
  const std::string changes =
      "data: {held_out: {fraction: 0.02, sources: [{type: synthetic, pattern: copy, documents: 3, "
      "domain: c}]}}";
  EXPECT_THAT(error_of<ConfigError>([&] { (void)tiny_recipe(mixer(2, changes)); }),
              HasSubstr("data.held_out.sources: found domain c, allowed a, b"));
}

TEST(Domains, HaveNumbersByName) {
  const Recipe recipe = tiny_recipe(mixer(2));
  EXPECT_EQ(domain_number(recipe, "", "--domain"), 0);
  EXPECT_EQ(domain_number(recipe, "a", "--domain"), 0);
  EXPECT_EQ(domain_number(recipe, "b", "--domain"), 1);
  EXPECT_THAT(error_of<ConfigError>([&] { (void)domain_number(recipe, "c", "--domain"); }),
              HasSubstr("--domain: found domain c, allowed a, b (what the model was trained on)"));
  EXPECT_THAT(error_of<ConfigError>([] { (void)domain_number(tiny_recipe(), "a", "--domain"); }),
              HasSubstr("--domain: found a, but the model goes by no domains"));
}

TEST(Domains, OfTextToEvaluateGoByTheirNames) {
  const ScratchFolder scratch;
  const std::string file = (scratch / "text.txt").string();
  std::ofstream(file) << "some text of more than a few bytes, twice: some text";
  TrainedModel trained = tiny_trained(mixer(2));
  // Contexts that make the experts read very different things.
  for (Parameter* p : trained.model->parameters()) {
    if (!p->name.ends_with("router.contexts")) continue;
    for (int64_t i = 0; i < p->value.numel(); ++i) {
      p->value.data<float>()[i] = i < p->value.numel() / 2 ? -2.0F : 2.0F;
    }
  }
  const auto loss = [&](const std::string& domain) {
    return evaluate_checkpoint(trained, {{file, domain}}).loss.per_token();
  };
  EXPECT_NE(loss("a"), loss("b"));
  EXPECT_EQ(loss("b"), loss("b"));
  const Evaluation both = evaluate_checkpoint(trained, {{file, "b"}, {file, "a"}});
  ASSERT_EQ(both.domains.size(), 2U);
  EXPECT_EQ(both.domains[0].domain, "a");
  EXPECT_EQ(both.domains[0].loss.per_token(), loss("a"));
  EXPECT_EQ(both.domains[1].loss.per_token(), loss("b"));
  EXPECT_THAT(error_of<ConfigError>([&] { (void)loss("c"); }),
              HasSubstr("--data: found domain c, allowed a, b"));
}

TEST(Domains, DecideWhatIsGenerated) {
  TrainedModel trained = tiny_trained(mixer(2));
  for (Parameter* p : trained.model->parameters()) {
    if (!p->name.ends_with("router.contexts")) continue;
    for (int64_t i = 0; i < p->value.numel(); ++i) {
      p->value.data<float>()[i] = i < p->value.numel() / 2 ? -4.0F : 4.0F;
    }
  }
  const auto tokens = [&](const std::string& domain) {
    const std::vector<int32_t> prompt = {5, 17, 3};
    return generate(trained, prompt, {.max_tokens = 20, .domain = domain, .seed = 3},
                    [](std::string_view) {})
        .tokens;
  };
  EXPECT_EQ(tokens(""), tokens("a"));
  EXPECT_NE(tokens("b"), tokens("a"));
}

// --- modalities of sources -----------------------------------------------------------------------

/// Two sources, of which each says what `modality` says, or nothing.
std::string sources(const std::string& first, const std::string& second,
                    const std::string& more = "") {
  const auto source = [](const char* domain, const std::string& modality) {
    return fmt::format(
        "{{type: synthetic, pattern: markov, documents: 30, min_length: 40, max_length: 90, "
        "alphabet: 24, domain: {}{}}}",
        domain, modality.empty() ? "" : ", modality: " + modality);
  };
  return fmt::format(
      "model: {{pattern: AEZE, modalities: {{names: [text, image]}}, variants: {{Z: {{type: "
      "untied_feed_forward, intermediate_size: 24}}}}}}\n"
      "data: {{sources: [{}, {}]}}\n{}",
      source("a", first), source("b", second), more);
}

SourceConfig& as_source_of(Recipe& recipe, size_t i) {
  return dynamic_cast<SourceConfig&>(*recipe.data.sources[i]);
}

TEST(Modalities, OfSourcesAreThoseOfTheirDomains) {
  EXPECT_THAT(domain_modalities(tiny_recipe(sources("image", "text"))), ElementsAre(1, 0));
  EXPECT_TRUE(reads_domains(tiny_recipe(sources("image", "text"))));
  Recipe recipe = tiny_recipe(sources("image", "text"));
  as_source_of(recipe, 1).modality.clear();
  EXPECT_THAT(domain_modalities(recipe), ElementsAre(1, kByTokenId));
}

TEST(Modalities, OfSourcesMustBeKnown) {
  EXPECT_THAT(error_of<ConfigError>([] { (void)tiny_recipe(sources("text", "sound")); }),
              HasSubstr("data.sources: found modality sound, allowed text, image"));
  EXPECT_THAT(error_of<ConfigError>([] { (void)tiny_recipe(sources("text", "")); }),
              HasSubstr("data.sources: source b names no modality"));
  EXPECT_THAT(
      error_of<ConfigError>([] {
        (void)tiny_recipe("data: {sources: [{type: synthetic, domain: a, modality: text}]}");
      }),
      HasSubstr("found modality text, but model.modalities is not given"));
}

TEST(Modalities, DecideWhatIsGeneratedAndKeepTokensApart) {
  TrainedModel trained = tiny_trained(sources("text", "image"));
  const auto tokens = [&](const std::string& domain) {
    const std::vector<int32_t> prompt = {5, 17, 3};
    return generate(trained, prompt, {.max_tokens = 20, .domain = domain, .seed = 3},
                    [](std::string_view) {})
        .tokens;
  };
  EXPECT_EQ(tokens(""), tokens("a"));
  EXPECT_NE(tokens("b"), tokens("a"));
  const IsolationVerdict verdict =
      verify_isolation({trained.recipe, *trained.pool, *trained.model, *trained.routing, {}});
  EXPECT_TRUE(verdict.evaluation.is_isolated());
  EXPECT_TRUE(verdict.training.is_isolated());
}

TEST(Modalities, OfTextToEvaluateAreThoseOfItsDomain) {
  const ScratchFolder scratch;
  const std::string file = (scratch / "text.txt").string();
  std::ofstream(file) << "some text of more than a few bytes, twice: some text";
  TrainedModel trained = tiny_trained(sources("text", "image"));
  const auto loss = [&](const std::string& domain) {
    return evaluate_checkpoint(trained, {{file, domain}}).loss.per_token();
  };
  EXPECT_NE(loss("a"), loss("b"));
  EXPECT_THAT(error_of<ConfigError>([&] { (void)loss("c"); }),
              HasSubstr("--data: found domain c, allowed a, b"));
}

}  // namespace
}  // namespace sluice
