#include "tests/support/sample_run.h"

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <vector>

namespace sluice::testing {
namespace {

using nlohmann::json;

/// Between -1 and 1, without a pattern that an eye sees.
double noise(int a, int b, int c) {
  const double x = std::sin(12.9898 * a + 78.233 * b + 37.719 * c + 1.0) * 43758.5453;
  return 2.0 * (x - std::floor(x)) - 1.0;
}

/// [layers][experts], drifting towards the even load.
json loads(const SampleRun& size, int record) {
  json layers = json::array();
  const double imbalance = std::exp(-4.0 * record / size.records);
  for (int layer = 0; layer < size.layers; ++layer) {
    json counts = json::array();
    for (int expert = 0; expert < size.experts; ++expert) {
      const double drift =
          imbalance * noise(layer, expert, 0) + 0.05 * noise(layer, expert, record);
      const bool is_dead = layer == 0 && expert == 1 && record < 3;
      counts.push_back(is_dead ? 0 : std::lround(1000.0 * std::exp(drift)));
    }
    layers.push_back(counts);
  }
  return layers;
}

json metrics(const SampleRun& size, int record, const std::string& domain) {
  const int step = 10 * record;
  json line = {{"step", step}, {"tokens", step * 4096}, {"seconds", 0.5 * step}};
  line["train/loss"] = 2.0 + 5.0 * std::exp(-step / 100.0) + 0.1 * noise(record, 1, 1);
  line["train/balance_loss"] = 0.01 + 0.002 * noise(record, 2, 1);
  line["train/grad_norm"] = 0.6 + 0.2 * noise(record, 3, 1);
  line["train/lr"] = 1e-3 * std::cos(1.4 * record / size.records);
  line["train/skipped_steps"] = 0;
  for (const char* metric : {"load/max_violation", "load/average_max_violation",
                             "load/dead_experts", "router/entropy"}) {
    line[metric] = 0.5;
    for (int layer = 0; layer < size.layers; ++layer) {
      line[std::string(metric) + "/" + std::to_string(layer)] =
          0.5 + 0.3 * std::exp(-step / 200.0) + 0.1 * noise(record, layer, 4);
    }
  }
  line["speed/tokens_per_second"] = 12000.0 + 500.0 * noise(record, 5, 1);
  line["speed/peak_fraction"] = 0.7;
  line["speed/phase_fraction/attention"] = 0.3;
  line["speed/phase_fraction/experts"] = 0.5;
  line["speed/phase_fraction/routing"] = 0.1;
  line["memory/peak_bytes"] = 1.9e8;
  if (record % 10 == 0) {
    line["eval/loss"] = 2.1 + 5.0 * std::exp(-step / 100.0);
    line["eval/bits_per_byte"] = 1.1;
    for (const std::string& name : {domain, std::string("code"), std::string("math")}) {
      line["eval/loss/" + name] = 2.0 + 0.1 * static_cast<double>(name.size()) + 50.0 / step;
      line["eval/bits_per_byte/" + name] = 1.0 + 20.0 / step;
    }
  }
  return line;
}

json probe(const SampleRun& size, int step, const std::string& domain) {
  json pairs = json::array();
  for (int layer = 0; layer < size.layers; ++layer) {
    json matrix = json::array();
    for (int i = 0; i < size.experts; ++i) {
      json row = json::array();
      for (int j = 0; j < size.experts; ++j) {
        const int low = std::min(i, j);
        const int high = std::max(i, j);
        row.push_back(i == j ? 1000 : std::lround(150.0 + 140.0 * noise(layer, low, high)));
      }
      matrix.push_back(row);
    }
    pairs.push_back(matrix);
  }
  json domains = json::object();
  int number = 0;
  for (const std::string& name : {domain, std::string("code"), std::string("math")}) {
    json chosen = loads(size, 4 + 7 * number++);
    domains[name] = {{"tokens", 500}, {"chosen", chosen}};
  }
  return {{"kind", "probe"},         {"step", step},          {"tokens", 1500},    {"top_k", 2},
          {"chosen", json::array()}, {"coactivation", pairs}, {"domains", domains}};
}

}  // namespace

void write_sample_run(const std::filesystem::path& folder, const std::string& domain,
                      const SampleRun& size) {
  std::filesystem::create_directories(folder);
  std::ofstream metrics_file(folder / "metrics.jsonl", std::ios::binary);
  std::ofstream routing(folder / "routing.jsonl", std::ios::binary);
  for (int record = 1; record <= size.records; ++record) {
    metrics_file << metrics(size, record, domain).dump() << "\n";
    routing << json{{"kind", "load"},
                    {"step", 10 * record},
                    {"tokens", 40960 * record},
                    {"load", loads(size, record)}}
                   .dump()
            << "\n";
  }
  json last = probe(size, 10 * size.records, domain);
  last["chosen"] = json::array();
  for (int layer = 0; layer < size.layers; ++layer) {
    last["chosen"].push_back(std::vector<int>(static_cast<size_t>(size.experts), 1000));
  }
  routing << last.dump() << "\n";
  routing << json{{"kind", "experts"},
                  {"step", 10},
                  {"gradient_share", loads(size, 5)},
                  {"update_ratio", loads(size, 9)}}
                 .dump()
          << "\n";
  routing << json{{"kind", "alarm"}, {"step", 10},       {"name", domain},           {"layer", 0},
                  {"value", 1.0},    {"threshold", 0.5}, {"advice", "see " + domain}}
                 .dump()
          << "\n";
  std::ofstream(folder / "overview.json", std::ios::binary)
      << json{{"version", "0.1.0"},
              {"machine",
               {{"processor", "A processor " + domain}, {"processors", 2}, {"threads", 2}}},
              {"steps", 10 * size.records},
              {"pattern", "(AE)x4"},
              {"parameters", {{"total", 2012345}, {"active", 912345}}},
              {"predicted_memory",
               {{{"kind", "parameters"}, {"bytes", 8000000}},
                {{"kind", "activations"}, {"bytes", 170000000}}}},
              {"domains",
               {{{"name", domain}, {"documents", 10}, {"tokens", 1000}, {"bytes", 3000}}}}}
             .dump();
  std::ofstream(folder / "recipe.yaml", std::ios::binary)
      << "seed: 1\nmodel:\n  pattern: (AE)x4\nbalance:\n  - type: bip\n    iterations: 4\n";
}

}  // namespace sluice::testing
