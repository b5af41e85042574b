// Writes one page of results from the JSON outputs of benchmark programs; scripts/bench calls it.
//
//   results_page --title "Performance, 2026-11-22" --fact "commit=1234567" --out page.md bench_gemm.json ...

#include "bench/report/results_page.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>
#include <vector>

#include "autograd/support/error.h"
#include "autograd/support/file.h"
#include "bench/tools/run_tool.h"

namespace sluice::bench {
namespace {

std::pair<std::string, std::string> fact_of(const std::string& text) {
  const size_t equals = text.find('=');
  SLUICE_CHECK(ConfigError, equals != std::string::npos, "--fact: found \"{}\", allowed NAME=VALUE",
               text);
  return {text.substr(0, equals), text.substr(equals + 1)};
}

int run(int argc, char** argv) {
  CLI::App app("Writes one page of results from the JSON outputs of benchmark programs.");
  std::string title = "Benchmarks";
  std::string out;
  std::vector<std::string> facts;
  std::vector<std::string> files;
  app.add_option("--title", title, "The page's heading");
  app.add_option("--fact", facts, "A line NAME=VALUE of the page's first table")
      ->take_all()
      ->allow_extra_args(false);
  app.add_option("--out", out, "The page to write")->required();
  app.add_option("FILE", files, "Outputs of --benchmark_out=FILE --benchmark_out_format=json")
      ->required();
  app.footer("example:\n  results_page --fact threads=2 --out page.md bench_gemm.json");
  CLI11_PARSE(app, argc, argv);

  ResultsPage page{.title = title};
  for (const std::string& fact : facts) page.facts.push_back(fact_of(fact));
  for (const std::string& file : files) page.programs.push_back(read_results(file));
  write_file_atomically(real_file_system(), out, bytes_of(results_page_text(page)),
                        raise_as<DataError>);
  return 0;
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  return sluice::bench::run_tool("results_page", sluice::bench::run, argc, argv);
}
