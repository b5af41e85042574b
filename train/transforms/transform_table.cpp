#include "train/transforms/transform_table.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "autograd/support/error.h"
#include "train/format.h"

namespace sluice {
namespace {

struct Spread {
  double mean = 0.0;
  double deviation = 0.0;  // of the sample; 0 for one value
};

template <class Value>
Spread spread_of(const std::vector<TransformReceipt>& receipts, Value&& value) {
  const auto count = static_cast<double>(receipts.size());
  Spread spread;
  for (const TransformReceipt& receipt : receipts) spread.mean += value(receipt) / count;
  for (const TransformReceipt& receipt : receipts) {
    spread.deviation += std::pow(value(receipt) - spread.mean, 2);
  }
  spread.deviation = receipts.size() > 1 ? std::sqrt(spread.deviation / (count - 1.0)) : 0.0;
  return spread;
}

std::string text_of(const Spread& spread, bool with_deviation) {
  return with_deviation ? fmt::format("{:.4f} ± {:.4f}", spread.mean, spread.deviation)
                        : fmt::format("{:.4f}", spread.mean);
}

}  // namespace

void TransformTable::add(const TransformReceipt& receipt) {
  SLUICE_INTERNAL_CHECK(receipt.parity.has_value(), "a receipt of {} without parity",
                        receipt.method);
  auto line = std::ranges::find(lines_, receipt.method, &Line::method);
  if (line == lines_.end()) line = lines_.insert(line, Line{receipt.method, {}});
  line->receipts.push_back(receipt);
}

std::string TransformTable::markdown() const {
  std::string text =
      "| method | seeds | parameters | active | held-out loss | rise | mean KL |\n"
      "| --- | --- | --- | --- | --- | --- | --- |\n";
  if (!lines_.empty()) {
    const TransformReceipt& any = lines_.front().receipts.front();
    text += fmt::format("| none | | {} | {} | {:.4f} | | |\n", with_commas(any.before.total),
                        with_commas(any.before.active), any.parity->loss_before);
  }
  for (const Line& line : lines_) {
    const bool several = line.receipts.size() > 1;
    const auto show = [&](auto&& value) {
      return text_of(spread_of(line.receipts, value), several);
    };
    const ModelSize& size = line.receipts.front().after;
    text += fmt::format("| {} | {} | {} | {} | {} | {} | {} |\n", line.method, line.receipts.size(),
                        with_commas(size.total), with_commas(size.active),
                        show([](const TransformReceipt& r) { return r.parity->loss_after; }),
                        show([](const TransformReceipt& r) {
                          return r.parity->loss_after - r.parity->loss_before;
                        }),
                        show([](const TransformReceipt& r) { return r.parity->mean_divergence; }));
  }
  return text;
}

std::string TransformTable::csv() const {
  std::string text =
      "method,seed,parameters,active_parameters,bytes,loss_before,loss_after,mean_divergence,"
      "largest_difference\n";
  for (const Line& line : lines_) {
    for (const TransformReceipt& r : line.receipts) {
      text +=
          fmt::format("{},{},{},{},{},{},{},{},{}\n", line.method, r.seed, r.after.total,
                      r.after.active, r.after.bytes, r.parity->loss_before, r.parity->loss_after,
                      r.parity->mean_divergence, r.parity->largest_difference);
    }
  }
  return text;
}

std::string kept_text(const TransformReceipt::Layer& layer) {
  std::vector<std::string> parts;
  for (size_t i = 0; i < layer.kept.size(); ++i) {
    const bool is_group = !layer.members.empty() && layer.members[i].size() > 1;
    parts.push_back(is_group ? fmt::format("{}", fmt::join(layer.members[i], "+"))
                             : std::to_string(layer.kept[i]));
  }
  return fmt::format("{}", fmt::join(parts, " "));
}

}  // namespace sluice
