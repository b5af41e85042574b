#pragma once
// What several ways of making models smaller cost, in one table: a line per method, over models and seeds.

#include <string>
#include <vector>

#include "train/transforms/transform.h"

namespace sluice {

class TransformTable {
 public:
  /// Lines stand in the order in which their methods came. The receipt has a parity.
  void add(const TransformReceipt& receipt);
  /// Mean and sample standard deviation over models and seeds of the held-out loss, its rise over the
  /// loss before, and the mean divergence.
  [[nodiscard]] std::string markdown() const;
  /// One line per method, model and seed, every number in full.
  [[nodiscard]] std::string csv() const;

 private:
  struct Line {
    std::string method;
    std::string settings;
    std::vector<TransformReceipt> receipts;
  };
  /// The method, with its settings when another line has the same.
  [[nodiscard]] std::string name_of(const Line& line) const;
  std::vector<Line> lines_;
};

/// "0 3 5"; merged experts as "3+5+6".
[[nodiscard]] std::string kept_text(const TransformReceipt::Layer& layer);

}  // namespace sluice
