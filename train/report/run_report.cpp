#include "train/report/run_report.h"

#include <fmt/format.h>

#include "autograd/support/error.h"
#include "train/format.h"
#include "train/report/run_sections.h"
#include "train/report/text.h"

namespace sluice::report {
namespace {

RunMaterial read_material(const RunFolder& run) {
  const auto folder = std::filesystem::weakly_canonical(run.path());
  RunMaterial material;
  material.name = folder.filename().string();
  material.records = read_run_records(run);
  material.overview = read_overview(run.overview());
  material.recipe = run.read_recipe().value_or("");
  return material;
}

std::string lead_of(const RunMaterial& run) {
  const RunRecords& records = run.records;
  const bool is_known = run.overview && run.overview->steps > 0;
  std::string lead = is_known ? fmt::format("{} of {}", with_commas(records.step),
                                            counted(run.overview->steps, "step"))
                              : counted(records.step, "step");
  lead +=
      fmt::format(" over {} tokens in {}", with_commas(records.tokens), in_time(records.seconds));
  if (run.overview) {
    lead = fmt::format("Model {}: {}", run.overview->pattern, lead);
  }
  if (is_known && records.step < run.overview->steps) lead += "; not finished";
  return lead + ".";
}

void add_losses(const RunMaterial& run, std::vector<Tile>& tiles) {
  const Series* loss = run.records.find("eval/loss");
  if (loss != nullptr) {
    const Point best = loss->lowest();
    const bool is_last_best = best.y >= loss->last();
    tiles.push_back({"Held-out loss", fmt::format("{:.4f}", loss->last()),
                     is_last_best ? "nats per token, the best of the run"
                                  : fmt::format("nats per token; best {:.4f} at step {}", best.y,
                                                with_commas(static_cast<int64_t>(best.x)))});
  }
  if (const Series* bits = run.records.find("eval/bits_per_byte")) {
    tiles.push_back({"Bits per byte", fmt::format("{:.4f}", bits->last()), "held out"});
  }
  if (loss == nullptr) {
    if (const Series* train = run.records.find("train/loss")) {
      tiles.push_back({"Training loss", fmt::format("{:.4f}", train->last()),
                       "nats per token; nothing was held out"});
    }
  }
}

std::vector<Tile> tiles_of(const RunMaterial& run) {
  std::vector<Tile> tiles;
  add_losses(run, tiles);
  if (run.overview) {
    const ParameterCount& count = run.overview->parameters;
    tiles.push_back({"Parameters", in_millions(static_cast<double>(count.total)),
                     in_millions(static_cast<double>(count.active)) + " active per token"});
  }
  const Series* pruned = run.records.find("pruning/parameters");
  const Series* active = run.records.find("pruning/active_parameters");
  if (pruned != nullptr && active != nullptr) {
    tiles.push_back({"After pruning", in_millions(pruned->last()),
                     in_millions(active->last()) + " active per token"});
  }
  tiles.push_back({"Tokens", in_millions(static_cast<double>(run.records.tokens)),
                   with_commas(run.records.step) + " steps"});
  tiles.push_back({"Time", in_time(run.records.seconds), "evaluation and checkpoints included"});
  if (const Series* speed = run.records.find("speed/tokens_per_second")) {
    const Series* peak = run.records.find("speed/peak_fraction");
    tiles.push_back({"Throughput", with_commas(static_cast<int64_t>(speed->mean())) + " tok/s",
                     peak != nullptr
                         ? fmt::format("{:.0f} % of large matrix products", 100.0 * peak->mean())
                         : ""});
  }
  if (const Series* violation = run.records.find("load/average_max_violation")) {
    tiles.push_back({"MaxVio", readable(violation->last(), 3), "mean of all steps and layers"});
  }
  if (!run.records.alarms.empty()) {
    int64_t times = 0;
    for (const Alarm& alarm : run.records.alarms) times += alarm.times;
    tiles.push_back({"Alarms", with_commas(times), "see below"});
  }
  return tiles;
}

}  // namespace

std::string run_report(const RunFolder& run) {
  const RunMaterial material = read_material(run);
  Page page{.kind = "Training run",
            .title = material.name,
            .lead = lead_of(material),
            .tiles = tiles_of(material)};
  for (const auto& make :
       {loss_section, optimisation_section, balance_section, router_section, load_section,
        specialisation_section, coactivation_section, learning_section, speed_section,
        memory_section, alarm_section, recipe_section, environment_section}) {
    Section section = make(material);
    if (!section.title.empty()) page.sections.push_back(std::move(section));
  }
  page.foot = fmt::format(
      "Made by sluice {} from the records in {}. Everything that is drawn here is "
      "in metrics.jsonl and routing.jsonl beside this page.",
      SLUICE_VERSION, material.name);
  return page_html(page);
}

}  // namespace sluice::report
