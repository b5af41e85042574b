#include "layers/block_state.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "autograd/support/error.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;

class SideTensorsTest : public ::testing::Test {
 protected:
  Tensor number(double value) { return Tensor::of<double>(pool_, {}, {value}); }
  Pool pool_;
};

TEST_F(SideTensorsTest, KeepsTheOrderInWhichTheyCame) {
  SideTensors side;
  EXPECT_EQ(side.find("q"), nullptr);
  side["q"] = number(1.0);
  side["a"] = number(2.0);
  side["q"] = number(3.0);
  std::vector<std::string> names;
  for (const auto& [name, tensor] : side) names.emplace_back(name);
  EXPECT_THAT(names, ElementsAre("q", "a"));
  EXPECT_EQ(side.at("q").item(), 3.0);
  EXPECT_EQ(side.find("a")->item(), 2.0);
}

TEST_F(SideTensorsTest, RefusesAnUnknownNameAndTooMany) {
  SideTensors side;
  EXPECT_THROW((void)side.at("q"), InternalError);
  std::vector<std::string> names;  // views of which are kept
  for (size_t i = 0; i <= SideTensors::kMaxSize; ++i) names.push_back(std::to_string(i));
  for (size_t i = 0; i < SideTensors::kMaxSize; ++i) side[names[i]] = number(0.0);
  EXPECT_THROW((void)side[names[SideTensors::kMaxSize]], InternalError);
}

}  // namespace
}  // namespace sluice
