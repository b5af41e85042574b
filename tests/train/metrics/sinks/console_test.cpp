#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

#include "train/metrics/sink.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

Record training(int64_t step, double seconds) {
  Record record{.step = step, .seconds = seconds};
  record.add(metrics::train_loss, 5.0);
  return record;
}

Record evaluation(int64_t step) {
  Record record{.step = step};
  record.add(metrics::eval_loss, 4.5);
  return record;
}

// What a terminal of `columns` shows after `output`: a cursor over lines, with the two escapes the
// sink uses.
std::vector<std::string> screen_of(const std::string& output) {
  std::vector<std::string> lines(1);
  size_t row = 0, column = 0;
  for (size_t i = 0; i < output.size(); ++i) {
    if (output[i] == '\n') {
      if (++row == lines.size()) lines.emplace_back();
      column = 0;
    } else if (output[i] == '\r') {
      column = 0;
    } else if (output.compare(i, 4, "\x1b[2K") == 0) {
      lines[row].clear();
      i += 3;
    } else if (output.compare(i, 4, "\x1b[1A") == 0) {
      row -= 1;
      i += 3;
    } else {
      lines[row].resize(std::max(lines[row].size(), column + 1), ' ');
      lines[row][column++] = output[i];
    }
  }
  return lines;
}

std::string output_of(bool is_terminal, int columns, const std::function<void(Sink&)>& use) {
  std::ostringstream out;
  {
    const auto sink = sinks().at("console").make(
        {.console = {&out, is_terminal, columns}, .total_steps = 100, .num_experts = 8});
    use(*sink);
  }
  return out.str();
}

void use_everything(Sink& sink) {
  sink.event("validation passed");
  sink.record(training(10, 1.0));
  sink.record(training(20, 2.0));
  sink.record(evaluation(20));
  sink.record(training(30, 3.0));
}

TEST(ConsoleSink, PrintsPlainLinesIntoAPipe) {
  EXPECT_EQ(output_of(false, 80, use_everything),
            "validation passed\n"
            "step 10/100 | loss 5.0000\n"
            "step 20/100 | loss 5.0000 | eta 8s\n"
            "step 20/100 | eval loss 4.5000\n"
            "step 30/100 | loss 5.0000 | eta 7s\n");
}

TEST(ConsoleSink, RedrawsInPlaceOnATerminal) {
  EXPECT_THAT(
      screen_of(output_of(true, 27, use_everything)),
      ::testing::ElementsAre("validation passed", "step 20/100 | eval loss 4.5000",
                             "[######--------------]  30%", "step 30/100 | loss 5.0000 ", ""));
}

TEST(ConsoleSink, CutsTheLineToTheWindow) {
  const auto screen = screen_of(output_of(true, 20, use_everything));
  EXPECT_EQ(screen[3], "step 30/100 | loss ");
}

TEST(ConsoleSink, CountsTheExpertsThatPruningLeaves) {
  const auto use = [](Sink& sink) {
    Record step = training(10, 1.0);
    step.add(metrics::load_dead_experts, 1.0);
    sink.record(step);
    Record pruned{.step = 10};
    pruned.add(metrics::pruning_experts, 6.0);
    sink.record(pruned);
    step.step = 20;
    sink.record(step);
  };
  const std::string output = output_of(false, 80, use);
  EXPECT_THAT(output, HasSubstr("step 10/100 | loss 5.0000 | dead 1/8\n"));
  EXPECT_THAT(output, HasSubstr("step 20/100 | loss 5.0000 | dead 1/6"));
}

TEST(ConsoleSink, UsesNoColourAndNoCarriageReturnInAPipe) {
  const std::string output = output_of(false, 80, use_everything);
  EXPECT_THAT(output, Not(HasSubstr("\r")));
  EXPECT_THAT(output, Not(HasSubstr("\x1b")));
}

}  // namespace
}  // namespace sluice
