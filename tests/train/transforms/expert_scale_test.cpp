#include "train/transforms/expert_scale.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/error_of.h"
#include "tests/train/transforms/upcycling_runs.h"

namespace sluice {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using testing::Dense;
using testing::error_of;
using testing::make_run;
using testing::receipt_of;
using testing::recipe_of;
using testing::Setting;

TEST(ExpertScale, MakesOutputsAsLongAsTheDenseOnes) {
  const Dense dense("f64");
  // Copies whose outputs are a third as long: the factor is 3 in every layer.
  const Setting plan{"num_experts: 4, top_k: 2, intermediate_size: 24",
                     "scale: 0.3333333333333333, calibrate: 128", "f64"};
  const UpcyclingReceipt receipt = receipt_of(dense, plan);
  EXPECT_LE(receipt.parity->relative_difference(), 1e-12);
  EXPECT_THAT(receipt.notes, Contains(HasSubstr("calibrated by 3.000, 3.000")));
  Setting shared = plan;
  shared.experts += ", shared: {num_experts: 1, intermediate_size: 8}";
  EXPECT_THAT(error_of<ConfigError>([&] { (void)make_run(recipe_of(dense, shared)); }),
              HasSubstr("upcycle.calibrate: given, but layers.1 has shared experts"));
}

}  // namespace
}  // namespace sluice
