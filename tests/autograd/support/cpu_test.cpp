#include "autograd/support/cpu.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>

#include "autograd/support/error.h"
#include "tests/support/error_of.h"

namespace sluice {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(Cpu, HasWhatThisTestWasBuiltFor) { EXPECT_NO_THROW(check_processor()); }

TEST(Cpu, NamesTheFirstFeatureThatIsMissing) {
  static constexpr std::array<CpuFeature, 3> kFeatures{
      {{"first", true}, {"second", false}, {"third", false}}};
  EXPECT_THAT(testing::error_of<ConfigError>([] { check_features(kFeatures); }),
              AllOf(HasSubstr(instruction_set()), HasSubstr("this processor lacks second"),
                    HasSubstr("scripts/build-portable")));
}

}  // namespace
}  // namespace sluice
