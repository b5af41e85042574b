// The console: plain lines into a pipe; on a terminal a progress bar with the latest record under
// it, redrawn in place, above which evaluations and events scroll by.
#include <sys/ioctl.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <iostream>
#include <optional>

#include "train/metrics/console_line.h"
#include "train/metrics/sink.h"

namespace sluice {
namespace {

// Clear the line, and go up one line.
constexpr std::string_view kClearLine = "\r\x1b[2K";
constexpr std::string_view kLineUp = "\x1b[1A";
constexpr int kWidestBar = 80;

class ConsoleSink final : public Sink {
 public:
  explicit ConsoleSink(const SinkContext& context)
      : target_(context.console),
        out_(context.console.out != nullptr ? context.console.out->rdbuf() : nullptr),
        line_context_{context.total_steps, context.num_experts, -1.0} {}

  // Leaves the cursor below the bar.
  ~ConsoleSink() override {
    if (is_drawn_) out_ << '\n' << std::flush;
  }

  void record(const Record& record) override {
    line_context_.eta_seconds = eta(record);
    if (const double* experts = record.find(metrics::pruning_experts.name)) {
      line_context_.num_experts = std::llround(*experts);
    }
    const std::string evaluation = evaluation_line(record, line_context_);
    if (!evaluation.empty()) print(evaluation);
    const std::string training = training_line(record, line_context_);
    if (training.empty()) return;
    if (!target_.is_terminal) return print(training);
    erase();
    step_ = record.step;
    latest_ = training;
    draw();
  }

  void event(std::string_view sentence) override { print(sentence); }
  void flush() override { out_.flush(); }

 private:
  // The mean time per step since the first record of this process.
  double eta(const Record& record) {
    if (!first_) first_ = {record.step, record.seconds};
    const int64_t steps = record.step - first_->step;
    if (steps <= 0 || line_context_.total_steps <= 0) return -1.0;
    const auto left = static_cast<double>(line_context_.total_steps - record.step);
    return left * (record.seconds - first_->seconds) / static_cast<double>(steps);
  }

  // A line that stays.
  void print(std::string_view line) {
    erase();
    out_ << line << '\n';
    draw();
    out_.flush();
  }

  void erase() {
    if (is_drawn_) out_ << kClearLine << kLineUp << kClearLine;
    is_drawn_ = false;
  }

  // Two lines without a line break at the end; cut to the window, since a wrapped line could not be
  // erased.
  void draw() {
    if (!target_.is_terminal || latest_.empty()) return;
    const int total = static_cast<int>(std::max<int64_t>(line_context_.total_steps, 1));
    const double fraction = static_cast<double>(step_) / total;
    out_ << progress_bar(fraction, std::min(target_.columns, kWidestBar)) << '\n'
         << latest_.substr(0, static_cast<size_t>(std::max(target_.columns - 1, 1))) << std::flush;
    is_drawn_ = true;
  }

  struct Start {
    int64_t step;
    double seconds;
  };
  ConsoleTarget target_;
  std::ostream out_;  // without a buffer where there is no stream
  ConsoleLineContext line_context_;
  std::optional<Start> first_;
  std::string latest_;
  int64_t step_ = 0;
  bool is_drawn_ = false;
};

}  // namespace

ConsoleTarget ConsoleTarget::standard_output() {
  const char* kind = std::getenv("TERM");
  const bool is_dumb = kind != nullptr && std::string_view(kind) == "dumb";
  ConsoleTarget target{&std::cout, ::isatty(STDOUT_FILENO) == 1 && !is_dumb, 80};
  winsize window{};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 0) {
    target.columns = window.ws_col;
  }
  return target;
}

std::unique_ptr<Sink> make_console_sink(const SinkContext& context) {
  return std::make_unique<ConsoleSink>(context);
}

}  // namespace sluice
