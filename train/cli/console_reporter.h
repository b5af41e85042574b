#pragma once
// What a training run prints before its first and after its last step.

#include <cstdio>

#include "train/reporter.h"

namespace sluice {

/// Writes plain text to `out`; notes go to stderr.
class ConsoleReporter final : public Reporter {
 public:
  explicit ConsoleReporter(std::FILE* out) : out_(out) {}
  void note(std::string_view sentence) override;
  void started(const RunOverview& overview) override;
  void finished(const RunSummary& summary) override;

 private:
  std::FILE* out_;
};

}  // namespace sluice
