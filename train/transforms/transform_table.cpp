#include "train/transforms/transform_table.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "autograd/support/error.h"
#include "train/format.h"

namespace sluice {
namespace {

/// "mean ± deviation"; of one value, the value.
template <class Value>
std::string spread_text(const std::vector<TransformReceipt>& receipts, Value&& value) {
  const auto count = static_cast<double>(receipts.size());
  double mean = 0.0;
  double squares = 0.0;
  for (const TransformReceipt& receipt : receipts) mean += value(receipt) / count;
  for (const TransformReceipt& receipt : receipts) squares += std::pow(value(receipt) - mean, 2);
  return receipts.size() > 1
             ? fmt::format("{:.4f} ± {:.4f}", mean, std::sqrt(squares / (count - 1.0)))
             : fmt::format("{:.4f}", mean);
}

/// Settings as YAML gives them, with commas for line ends.
std::string in_one_line(std::string_view settings) {
  std::string text;
  bool is_indent = true;
  for (const char c : settings) {
    if (c == '\n') {
      text += ", ";
      is_indent = true;
    } else if (c != ' ' || !is_indent) {
      text += c;
      is_indent = false;
    }
  }
  if (text.ends_with(", ")) text.resize(text.size() - 2);
  return text;
}

/// The first of each model.
std::vector<TransformReceipt> one_per_model(const std::vector<TransformReceipt>& receipts) {
  std::vector<TransformReceipt> firsts;
  for (const TransformReceipt& receipt : receipts) {
    if (std::ranges::find(firsts, receipt.from, &TransformReceipt::from) == firsts.end()) {
      firsts.push_back(receipt);
    }
  }
  return firsts;
}

}  // namespace

void TransformTable::add(const TransformReceipt& receipt) {
  SLUICE_INTERNAL_CHECK(receipt.parity.has_value(), "a receipt of {} without parity",
                        receipt.method);
  const std::string settings = in_one_line(receipt.settings);
  auto line = std::ranges::find_if(lines_, [&](const Line& known) {
    return known.method == receipt.method && known.settings == settings;
  });
  if (line == lines_.end()) line = lines_.insert(line, Line{receipt.method, settings, {}});
  line->receipts.push_back(receipt);
}

std::string TransformTable::name_of(const Line& line) const {
  const bool is_only = std::ranges::count(lines_, line.method, &Line::method) == 1;
  return is_only ? line.method : fmt::format("{} ({})", line.method, line.settings);
}

std::string TransformTable::markdown() const {
  std::string text =
      "| method | runs | parameters | active | held-out loss | rise | mean KL |\n"
      "| --- | --- | --- | --- | --- | --- | --- |\n";
  if (!lines_.empty()) {
    const std::vector<TransformReceipt> models = one_per_model(lines_.front().receipts);
    const ModelSize& size = models.front().before;
    text += fmt::format(
        "| none | {} | {} | {} | {} | | |\n", models.size(), with_commas(size.total),
        with_commas(size.active),
        spread_text(models, [](const TransformReceipt& r) { return r.parity->loss_before; }));
  }
  for (const Line& line : lines_) {
    const auto show = [&](auto&& value) { return spread_text(line.receipts, value); };
    const ModelSize& size = line.receipts.front().after;
    text += fmt::format("| {} | {} | {} | {} | {} | {} | {} |\n", name_of(line),
                        line.receipts.size(), with_commas(size.total), with_commas(size.active),
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
      "method,settings,from,seed,parameters,active_parameters,bytes,loss_before,loss_after,mean_"
      "divergence,"
      "largest_difference\n";
  for (const Line& line : lines_) {
    for (const TransformReceipt& r : line.receipts) {
      text += fmt::format("{},\"{}\",\"{}\",{},{},{},{},{},{},{},{}\n", line.method, line.settings,
                          r.from, r.seed, r.after.total, r.after.active, r.after.bytes,
                          r.parity->loss_before, r.parity->loss_after, r.parity->mean_divergence,
                          r.parity->largest_difference);
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
