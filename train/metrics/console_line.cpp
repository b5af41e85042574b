#include "train/metrics/console_line.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace sluice {
namespace {

// Collects "a b | c d": items inside a segment, segments in a line.
class Line {
 public:
  explicit Line(const Record& record) : record_(record) {}

  /// Adds `format` of the metric's value times `scale`, if the record has it.
  template <class Format>
  Line& item(const Metric& metric, Format&& format) {
    const double* value = record_.find(metric.name);
    if (value != nullptr) {
      items_.push_back(format(*value));
      has_metric_ = true;
    }
    return *this;
  }
  Line& text(std::string item) {
    items_.push_back(std::move(item));
    return *this;
  }
  Line& end_segment() {
    if (!items_.empty()) segments_.push_back(fmt::format("{}", fmt::join(items_, " ")));
    items_.clear();
    return *this;
  }
  [[nodiscard]] bool has_metric() const { return has_metric_; }
  [[nodiscard]] std::string join() const { return fmt::format("{}", fmt::join(segments_, " | ")); }

 private:
  const Record& record_;
  std::vector<std::string> items_;
  std::vector<std::string> segments_;
  bool has_metric_ = false;
};

// Formats a number with one pattern.
auto as(const char* pattern, double scale = 1.0) {
  return
      [pattern, scale](double value) { return fmt::format(fmt::runtime(pattern), value * scale); };
}

// 3e-4 as "3.0e-4".
std::string short_scientific(double value) {
  std::string text = fmt::format("{:.1e}", value);
  const size_t exponent = text.find('e');
  if (exponent != std::string::npos && text.size() == exponent + 4 && text[exponent + 2] == '0') {
    text.erase(exponent + 2, 1);
  }
  return text;
}

std::string step_text(const Record& record, const ConsoleLineContext& context) {
  return context.total_steps > 0 ? fmt::format("step {}/{}", record.step, context.total_steps)
                                 : fmt::format("step {}", record.step);
}

constexpr double kPercent = 100.0;
constexpr double kGigabyte = 1e-9;

}  // namespace

std::string training_line(const Record& record, const ConsoleLineContext& context) {
  using namespace metrics;
  Line line(record);
  line.text(step_text(record, context)).end_segment();
  line.item(train_loss, as("loss {:.4f}")).item(train_loss_deviation, as("({:+.1f}z)"));
  line.end_segment();
  line.item(train_balance_loss, as("bal {:.3f}")).item(train_z_loss, as("z {:.3f}")).end_segment();
  line.item(train_grad_norm, as("gnorm {:.2f}")).end_segment();
  line.item(train_lr, [](double lr) { return "lr " + short_scientific(lr); }).end_segment();
  line.item(load_max_violation, as("maxvio {:.2f}"));
  line.item(load_dead_experts,
            [&](double dead) { return fmt::format("dead {:.0f}/{}", dead, context.num_experts); });
  line.end_segment();
  line.item(speed_tokens_per_second, [](double speed) {
    return std::isfinite(speed) ? with_thousands(std::llround(speed)) + " tok/s" : "? tok/s";
  });
  line.item(speed_peak_fraction, as("{:.0f}% peak", kPercent)).end_segment();
  line.item(speed_router_fraction, as("router {:.0f}%", kPercent)).end_segment();
  line.item(memory_peak_bytes, as("{:.1f} GB", kGigabyte)).end_segment();
  if (context.eta_seconds >= 0)
    line.text("eta " + duration_text(context.eta_seconds)).end_segment();
  return line.has_metric() ? line.join() : std::string();
}

std::string evaluation_line(const Record& record, const ConsoleLineContext& context) {
  using namespace metrics;
  Line line(record);
  line.text(step_text(record, context)).end_segment();
  line.item(eval_loss, as("eval loss {:.4f}")).end_segment();
  line.item(eval_bits_per_byte, as("{:.3f} bits/byte")).end_segment();
  const std::string family = fmt::format("{}/", eval_loss.name);
  for (const auto& [name, value] : record.values) {
    if (name.starts_with(family))
      line.text(fmt::format("{} {:.2f}", name.substr(family.size()), value));
  }
  line.end_segment();
  return line.has_metric() ? line.join() : std::string();
}

std::string with_thousands(int64_t number) {
  std::string text = fmt::format("{}", number);
  const ptrdiff_t first_digit = number < 0 ? 1 : 0;
  for (ptrdiff_t at = static_cast<ptrdiff_t>(text.size()) - 3; at > first_digit; at -= 3) {
    text.insert(static_cast<size_t>(at), 1, ',');
  }
  return text;
}

std::string duration_text(double seconds) {
  constexpr int64_t kMinute = 60, kHour = 60 * kMinute, kDay = 24 * kHour;
  const int64_t whole = std::llround(seconds);
  if (whole < kMinute) return fmt::format("{}s", whole);
  if (whole < kHour) return fmt::format("{}m", whole / kMinute);
  if (whole < kDay) return fmt::format("{}h{:02}m", whole / kHour, whole % kHour / kMinute);
  return fmt::format("{}d{:02}h", whole / kDay, whole % kDay / kHour);
}

std::string progress_bar(double fraction, int width) {
  constexpr int kAround = 7;  // "[] 100%" without its bar
  const int cells = std::max(1, width - kAround);
  const double inside = std::clamp(fraction, 0.0, 1.0);
  const int done = static_cast<int>(inside * cells);
  return fmt::format("[{}{}] {:3.0f}%", std::string(static_cast<size_t>(done), '#'),
                     std::string(static_cast<size_t>(cells - done), '-'), std::floor(inside * 100));
}

}  // namespace sluice
