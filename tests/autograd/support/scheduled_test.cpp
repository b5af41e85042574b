#include "autograd/support/scheduled.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "autograd/support/error.h"

namespace sluice {
namespace {

using Unit = DurationUnit;

TEST(Duration, ParsesCountsWithUnits) {
  EXPECT_EQ(Duration::parse("300 steps"), (Duration{300, Unit::steps}));
  EXPECT_EQ(Duration::parse("1 step"), (Duration{1, Unit::steps}));
  EXPECT_EQ(Duration::parse("2M tokens"), (Duration{2e6, Unit::tokens}));
  EXPECT_EQ(Duration::parse("1.5G tokens"), (Duration{1.5e9, Unit::tokens}));
  EXPECT_EQ(Duration::parse("8k tokens"), (Duration{8e3, Unit::tokens}));
  EXPECT_EQ(Duration::parse("0.5 epochs"), (Duration{0.5, Unit::epochs}));
  EXPECT_EQ(Duration::parse("10%"), (Duration{10, Unit::percent}));
  EXPECT_EQ(Duration::parse(" 12.5 % "), (Duration{12.5, Unit::percent}));
}

TEST(Duration, TakesABareNumberForSteps) {
  EXPECT_EQ(Duration::parse("250"), (Duration{250, Unit::steps}));
  EXPECT_EQ(Duration::parse("2k"), (Duration{2000, Unit::steps}));
  EXPECT_EQ(Duration::parse("0"), (Duration{0, Unit::steps}));
}

TEST(Duration, RefusesEverythingElse) {
  for (const char* text : {"", "steps", "3 days", "-1 steps", "1.5 steps", "0.1", "nan epochs",
                           "inf", "1e30 tokens", "110%", "10 % steps", "3 K tokens", "1 000"}) {
    EXPECT_THROW((void)Duration::parse(text), ConfigError) << text;
  }
}

TEST(Duration, NamesWhatIsAllowed) {
  try {
    (void)Duration::parse("3 days");
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_STREQ(error.what(),
                 "found \"3 days\", allowed a duration such as 300 steps, 2M tokens, 3 epochs or "
                 "10% (of the run); a bare whole number means steps");
  }
}

TEST(Duration, PrintsTextThatReadsBack) {
  EXPECT_EQ((Duration{2e6, Unit::tokens}.to_string()), "2000000 tokens");
  EXPECT_EQ((Duration{1, Unit::epochs}.to_string()), "1 epoch");
  EXPECT_EQ((Duration{12.5, Unit::percent}.to_string()), "12.5%");
  for (const Duration& duration :
       {Duration{0, Unit::steps}, Duration{1, Unit::steps},
        Duration{9007199254740992.0, Unit::tokens}, Duration{1.0 / 3.0, Unit::epochs},
        Duration{1e-300, Unit::epochs}, Duration{100, Unit::percent},
        Duration{0.1, Unit::percent}}) {
    EXPECT_EQ(Duration::parse(duration.to_string()), duration) << duration.to_string();
  }
}

const Progress kMiddle{.step = 250,
                       .tokens = 2000,
                       .epochs = 0.5,
                       .total_steps = 1000,
                       .total_tokens = 8000,
                       .total_epochs = 2.0};

TEST(Duration, MeasuresTheRunInItsOwnUnit) {
  EXPECT_EQ((Duration{1, Unit::steps}.elapsed(kMiddle)), 250.0);
  EXPECT_EQ((Duration{1, Unit::tokens}.elapsed(kMiddle)), 2000.0);
  EXPECT_EQ((Duration{1, Unit::epochs}.elapsed(kMiddle)), 0.5);
  EXPECT_EQ((Duration{1, Unit::percent}.elapsed(kMiddle)), 25.0);
}

TEST(Duration, ConvertsAtThePlannedRate) {
  EXPECT_EQ((Duration{100, Unit::steps}.in(Unit::tokens, kMiddle)), 800.0);
  EXPECT_EQ((Duration{800, Unit::tokens}.in(Unit::percent, kMiddle)), 10.0);
  EXPECT_EQ((Duration{1, Unit::epochs}.in(Unit::steps, kMiddle)), 500.0);
}

TEST(Duration, NeedsNoRunLengthForItsOwnUnit) {
  const Progress unknown{.step = 3};
  EXPECT_EQ((Duration{7, Unit::epochs}.in(Unit::epochs, unknown)), 7.0);
  EXPECT_EQ((Duration{0, Unit::steps}.in(Unit::tokens, unknown)), 0.0);
  EXPECT_THROW((void)(Duration{7, Unit::steps}.in(Unit::tokens, unknown)), ConfigError);
  EXPECT_THROW((void)elapsed_in(Unit::percent, unknown), ConfigError);
}

struct Doubling : ScheduleShape {
  void fields(FieldVisitor&) override {}
  [[nodiscard]] double value(const Progress& progress) const override {
    return 2.0 * static_cast<double>(progress.step);
  }
  [[nodiscard]] Extremes extremes() const override { return {0.0, 1e300}; }
};

TEST(Scheduled, IsANumberOrAShape) {
  const Scheduled constant = 0.25;
  EXPECT_TRUE(constant.is_constant());
  EXPECT_EQ(constant.at(kMiddle), 0.25);

  const Scheduled schedule("doubling", std::make_shared<Doubling>());
  EXPECT_FALSE(schedule.is_constant());
  EXPECT_EQ(schedule.type(), "doubling");
  EXPECT_EQ(schedule.at(kMiddle), 500.0);
}

}  // namespace
}  // namespace sluice
