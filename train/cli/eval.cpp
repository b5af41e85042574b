// `sluice eval CHECKPOINT|RUN`: the held-out loss, for people or as JSON, and logits as a file.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "balance/load.h"
#include "balance/metrics.h"
#include "train/cli/checkpoint_flags.h"
#include "train/cli/command.h"
#include "train/dump_logits.h"
#include "train/evaluate_checkpoint.h"
#include "train/format.h"

namespace sluice {
namespace {

using nlohmann::ordered_json;

struct EvalFlags {
  CheckpointFlags checkpoint;
  std::vector<std::string> texts;
  std::string dump;
  std::string tokens;
  std::string raw_type = "u16";
  EvaluationTraces traces;
  WeightStorage weights = WeightStorage::f32;
  std::string without_experts;
  bool json = false;
};

void print_loss(std::string_view name, const TextLoss& loss, size_t width) {
  fmt::print("{:<{}}{:>14}{:>14}{:>10.4f}{:>13.3f}{:>15.4f}\n", name, width,
             with_commas(loss.tokens), with_commas(loss.bytes), loss.per_token(), loss.perplexity(),
             loss.bits_per_byte());
}

void print_loads(const Evaluation& result) {
  if (result.loads.empty()) return;
  fmt::print("\n{:<14}{:>8}{:>19}{:>15}{:>8}{:>15}{:>15}\n", "expert layer", "maxvio",
             "effective experts", "largest share", "idle", "experts/token", "congestion");
  const auto row = [](const std::string& name, const LoadStatistics& load,
                      std::optional<double> congestion) {
    fmt::print("{:<14}{:>8.3f}{:>19.2f}{:>15.4f}{:>8}{:>15.2f}{:>15}\n", name, load.max_vio,
               load.effective_experts, load.largest_share, fmt::format("{:g}", load.idle_experts),
               load.experts_per_token, congestion ? fmt::format("{:.2f}", *congestion) : "-");
  };
  std::vector<LoadStatistics> layers;
  for (size_t layer = 0; layer < result.loads.size(); ++layer) {
    layers.push_back(load_statistics(result.loads[layer]));
    row(fmt::format("{}", layer), layers.back(),
        result.probes[layer].congestion(result.loss.tokens));
  }
  Record record;
  result.add_to(record);
  const double* congestion = record.find(metrics::eval_congestion.name);
  if (layers.size() > 1) {
    row("mean", mean_of(layers), congestion ? std::optional(*congestion) : std::nullopt);
  }
}

/// The expert that gets most of a domain's tokens, and how often for a share of k / E.
struct Favourite {
  size_t expert = 0;
  double share = 0.0;  // of the domain's tokens
  double times = 0.0;  // that of an expert that everyone uses alike
};

Favourite favourite_of(const LayerProbe& probe, const std::vector<int64_t>& tokens, size_t domain) {
  const std::vector<double> shares = specialisation(probe.chosen[domain], tokens[domain]);
  const auto best = std::ranges::max_element(shares);
  return {.expert = static_cast<size_t>(best - shares.begin()),
          .share = *best,
          .times = summarise_specialisation(probe.chosen, tokens).peak[domain]};
}

void print_domains(const Evaluation& result) {
  if (result.probes.empty() || result.domains.size() < 2) return;
  const std::vector<int64_t> tokens = result.domain_tokens();
  size_t width = std::string_view("expert 63, 2.00x").size();
  for (const DomainLoss& domain : result.domains) width = std::max(width, domain.domain.size());
  fmt::print("\nfavourite expert of each domain, and its share of the tokens over k / E\n{:<14}",
             "expert layer");
  for (const DomainLoss& domain : result.domains) fmt::print("  {:>{}}", domain.domain, width);
  fmt::print("\n");
  for (size_t layer = 0; layer < result.probes.size(); ++layer) {
    fmt::print("{:<14}", layer);
    for (size_t domain = 0; domain < tokens.size(); ++domain) {
      const Favourite best = favourite_of(result.probes[layer], tokens, domain);
      fmt::print("  {:>{}}", fmt::format("expert {}, {:.2f}x", best.expert, best.times), width);
    }
    fmt::print("\n");
  }
}

void print_text(const CheckpointMeta& meta, const std::string& path, const Evaluation& result) {
  fmt::print("{}: step {}, {} training tokens\n\n", path, with_commas(meta.step),
             with_commas(meta.tokens));
  size_t width = std::string_view("all").size();
  for (const DomainLoss& domain : result.domains) width = std::max(width, domain.domain.size());
  width = std::max(width, std::string_view("domain").size());
  fmt::print("{:<{}}{:>14}{:>14}{:>10}{:>13}{:>15}\n", "domain", width, "tokens", "bytes", "loss",
             "perplexity", "bits per byte");
  for (const DomainLoss& domain : result.domains) print_loss(domain.domain, domain.loss, width);
  if (result.domains.size() > 1) print_loss("all", result.loss, width);
  print_loads(result);
  print_domains(result);
}

ordered_json json_of(const TextLoss& loss) {
  return {{"tokens", loss.tokens},
          {"bytes", loss.bytes},
          {"loss", loss.per_token()},
          {"perplexity", loss.perplexity()},
          {"bits_per_byte", loss.bits_per_byte()}};
}

ordered_json json_of(const Evaluation& result, size_t layer) {
  const LayerLoad& load = result.loads[layer];
  const LayerProbe& probe = result.probes[layer];
  const LoadStatistics statistics = load_statistics(load);
  ordered_json json = {{"counts", load.counts},
                       {"max_violation", statistics.max_vio},
                       {"effective_experts", statistics.effective_experts},
                       {"largest_share", statistics.largest_share},
                       {"idle_experts", statistics.idle_experts},
                       {"experts_per_token", statistics.experts_per_token},
                       {"strongest_pair", probe.strongest_pair()}};
  if (const auto gamma = probe.congestion(result.loss.tokens)) json["congestion"] = *gamma;
  const std::vector<int64_t> tokens = result.domain_tokens();
  json["domain_information"] = summarise_specialisation(probe.chosen, tokens).information;
  json["domains"] = ordered_json::object();
  for (size_t i = 0; i < tokens.size(); ++i) {
    const Favourite best = favourite_of(probe, tokens, i);
    json["domains"][result.domains[i].domain] = {{"counts", probe.chosen[i]},
                                                 {"favourite_expert", best.expert},
                                                 {"favourite_share", best.share},
                                                 {"specialisation", best.times}};
  }
  return json;
}

void print_json(const CheckpointMeta& meta, const std::string& path, const Evaluation& result) {
  ordered_json json = {{"checkpoint", path}, {"step", meta.step}, {"training_tokens", meta.tokens}};
  json["all"] = json_of(result.loss);
  json["domains"] = ordered_json::object();
  for (const DomainLoss& domain : result.domains) {
    json["domains"][domain.domain] = json_of(domain.loss);
  }
  json["loads"] = ordered_json::array();
  for (size_t layer = 0; layer < result.loads.size(); ++layer) {
    json["loads"].push_back(json_of(result, layer));
  }
  fmt::print("{}\n", json.dump(2));
}

int run_evaluation(const EvalFlags& flags) {
  SLUICE_CHECK(ConfigError, flags.dump.empty() == flags.tokens.empty(),
               "--dump-logits and --tokens go together: --tokens tells what to run");
  std::vector<EvaluationText> texts;
  for (const std::string& text : flags.texts) texts.push_back(EvaluationText::parse(text));
  std::optional<TokenFile> tokens;
  if (!flags.tokens.empty()) tokens = read_token_file(flags.tokens, flags.raw_type);

  auto found = flags.checkpoint.find();
  found.checkpoint =
      without_experts(std::move(found.checkpoint), found.path.string(), flags.without_experts);
  TrainedModel trained = build_trained_model(found.checkpoint, found.path.string(), flags.weights);
  found.checkpoint.state.clear();  // a second copy of the weights, and more
  use_threads(trained.recipe);
  if (tokens) {
    dump_logits(trained, *tokens,
                {.output = flags.dump,
                 .tokens_name = flags.tokens,
                 .checkpoint_name = found.path.string()});
    return 0;
  }
  const Evaluation result = evaluate_checkpoint(trained, texts, flags.traces);
  (flags.json ? print_json : print_text)(trained.meta, found.path.string(), result);
  if (!flags.json && !flags.traces.record.empty()) {
    fmt::print("\ntrace: {0}; `sluice inspect {0}` shows it\n", flags.traces.record);
  }
  return 0;
}

}  // namespace

const Command eval_command = {
    .name = "eval",
    .summary =
        "Loss and routing of a trained model on held-out text: perplexity, bits per byte, loads",
    .example = "sluice eval runs/quickstart",
    .declare = [](CLI::App& app) -> std::function<int()> {
      auto flags = std::make_shared<EvalFlags>();
      flags->checkpoint.declare(app);
      declare_weights(app, flags->weights);
      declare_left_out(app, flags->without_experts);
      auto* data =
          app.add_option(
                 "--data", flags->texts,
                 "file or folder to evaluate on instead of the recipe's held-out text; may be "
                 "repeated")
              ->type_name("FILE[,DOMAIN]");
      data->allow_extra_args(false);
      auto* json = app.add_flag("--json", flags->json, "print one JSON object");
      auto* dump =
          app.add_option("--dump-logits", flags->dump,
                         "write the logits [N, V] of --tokens to this HDF5 file, and nothing else")
              ->type_name("FILE.h5")
              ->excludes(data)
              ->excludes(json);
      app.add_option("--tokens", flags->tokens, "ready tokens: raw .bin, .npy or HDF5")
          ->type_name("FILE");
      app.add_option("--raw-type", flags->raw_type, "numbers of a .bin file: u16 or u32")
          ->check(CLI::IsMember({"u16", "u32"}))
          ->capture_default_str();
      app.add_option("--trace", flags->traces.record,
                     "record the experts and weights of every token in this HDF5 file; see "
                     "`sluice inspect`")
          ->type_name("FILE.h5")
          ->excludes(dump);
      auto* replay = app.add_option("--replay", flags->traces.replay,
                                    "take the experts of this trace instead of choosing")
                         ->type_name("FILE.h5")
                         ->excludes(dump);
      app.add_flag("--replay-weights", flags->traces.replay_recorded_weights,
                   "with --replay: take its combine weights too")
          ->needs(replay);
      return [flags] { return run_evaluation(*flags); };
    },
};

}  // namespace sluice
