// Compares the JSON outputs that two builds of a benchmark wrote in turns; scripts/bench-compare calls
// it.
//
//   compare_results --a a1.json,a2.json,... --b b1.json,b2.json,...

#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>
#include <vector>

#include "bench/report/comparison.h"
#include "bench/tools/run_tool.h"

namespace sluice::bench {
namespace {

std::vector<ProgramResults> read_all(const std::vector<std::string>& files) {
  std::vector<ProgramResults> results;
  for (const std::string& file : files) results.push_back(read_results(file));
  return results;
}

int run(int argc, char** argv) {
  CLI::App app("Compares the JSON outputs that two builds of a benchmark wrote in turns.");
  std::string figure = kTime;
  std::vector<std::string> a;
  std::vector<std::string> b;
  app.add_option("--a", a, "Outputs of build A, one per round")->required()->delimiter(',');
  app.add_option("--b", b, "Outputs of build B, in the same order")->required()->delimiter(',');
  app.add_option("--counter", figure, "What is compared: a counter's name, or \"time\"");
  app.footer("example:\n  compare_results --a a1.json,a2.json,a3.json --b b1.json,b2.json,b3.json");
  CLI11_PARSE(app, argc, argv);
  std::fputs(comparison_text(read_all(a), read_all(b), figure).c_str(), stdout);
  return 0;
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  return sluice::bench::run_tool("compare_results", sluice::bench::run, argc, argv);
}
