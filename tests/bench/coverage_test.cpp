// Every kernel with a reference twin has a benchmark: some bench/bench_x.cpp includes its header.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "tests/support/source_tree.h"

namespace sluice {
namespace {

using ::testing::IsEmpty;
using testing::SourceFile;

TEST(BenchCoverage, HasABenchmarkOfEveryKernel) {
  const auto files = testing::read_source_tree(SLUICE_SOURCE_DIR, {".h", ".cpp"});
  const std::string kernels = "autograd/kernels/";
  const std::string twins = kernels + "reference/";
  std::set<std::string> unmeasured;
  for (const SourceFile& file : files) {
    if (file.path.starts_with(twins)) unmeasured.insert(kernels + file.path.substr(twins.size()));
  }
  ASSERT_GT(unmeasured.size(), 10u) << "the kernels were not found under " SLUICE_SOURCE_DIR;
  for (const SourceFile& file : files) {
    if (!file.path.starts_with("bench/bench_")) continue;
    std::erase_if(unmeasured, [&](const std::string& header) {
      return file.text.find("#include \"" + header + "\"") != std::string::npos;
    });
  }
  EXPECT_THAT(unmeasured, IsEmpty()) << "write bench/bench_x.cpp for these";
}

}  // namespace
}  // namespace sluice
