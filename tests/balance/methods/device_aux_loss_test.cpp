#include "autograd/support/error.h"
#include "tests/balance/loss_gradient.h"

namespace sluice {
namespace {

using testing::f1_logits;
using testing::layout_of;
using testing::loss_of;
using testing::make_one;
using testing::RoutedBatch;

constexpr double kPrinted = 1e-6;  // the page adds probabilities of six digits

class DeviceAuxLoss : public ::testing::Test {
 protected:
  Tensor f1() { return Tensor::of<double>(pool_, {4, 4}, f1_logits()); }
  static nlohmann::json options(double device, double communication, int64_t groups = 2) {
    return {{"groups", groups},
            {"device_coefficient", device},
            {"communication_coefficient", communication}};
  }
  Pool pool_;
};

TEST_F(DeviceAuxLoss, AgreesWithTheWorkedExampleInBothScopes) {
  for (const std::string scope : {"sequence", "micro_batch"}) {
    for (const auto& [device, communication] :
         std::vector<std::pair<double, double>>{{1.0, 0.0}, {0.0, 1.0}, {0.05, 0.02}}) {
      nlohmann::json given = options(device, communication);
      given["scope"] = scope;
      const auto balancer = make_one("device_aux_loss", 4, given);
      EXPECT_NEAR(loss_of(pool_, *balancer, f1(), layout_of({4}), {.top_k = 2}).value,
                  device * 1.094141 + communication * 0.672071, kPrinted)
          << scope;
    }
  }
}

TEST_F(DeviceAuxLoss, LimitsTheGroupsOfATokenAsTold) {
  nlohmann::json given = options(0.0, 1.0);
  given["max_groups"] = 1;
  const auto balancer = make_one("device_aux_loss", 4, given);
  EXPECT_NEAR(loss_of(pool_, *balancer, f1(), layout_of({4}), {.top_k = 2}).value, 2.0 * 0.672071,
              2.0 * kPrinted);
}

TEST_F(DeviceAuxLoss, OfGroupsOfOneExpertIsTheLossOfTheExperts) {
  SampleFactory factory(pool_, DType::f64);
  const Tensor z = factory.uniform({10, 4}, -2.0, 2.0);
  SequenceLayout layout = layout_of({3, 7});
  layout.counted[4] = 0;
  for (const auto& [scope, type] : std::vector<std::pair<std::string, std::string>>{
           {"sequence", "sequence_aux_loss"}, {"micro_batch", "aux_loss"}}) {
    nlohmann::json given = options(1.0, 0.0, 4);
    given["scope"] = scope;
    const auto devices = make_one("device_aux_loss", 4, given);
    const auto experts = make_one(type, 4, {{"coefficient", 1.0}});
    const auto a = loss_of(pool_, *devices, z, layout, {.top_k = 2, .valid_tokens = 30});
    const auto b = loss_of(pool_, *experts, z, layout, {.top_k = 2, .valid_tokens = 30});
    EXPECT_NEAR(a.value, b.value, 1e-15);
    for (size_t i = 0; i < a.gradient.size(); ++i) {
      EXPECT_NEAR(a.gradient[i], b.gradient[i], 1e-16);
    }
  }
}

TEST_F(DeviceAuxLoss, IsItsCoefficientWhenTheGroupsAreEvenlyLoaded) {
  // Experts 0 and 2 have everything, one of each group: balanced devices, unbalanced experts.
  const std::vector<double> z = {3.0, -9.0, 2.0, -9.0, 2.0, -9.0, 3.0, -9.0};
  const Tensor logits = Tensor::of<double>(pool_, {2, 4}, z);
  const auto device = make_one("device_aux_loss", 4, options(0.5, 0.0));
  EXPECT_NEAR(loss_of(pool_, *device, logits, layout_of({2}), {.top_k = 2}).value, 0.5, 1e-15);
  const auto experts = make_one("aux_loss", 4, {{"coefficient", 0.5}});
  EXPECT_GT(loss_of(pool_, *experts, logits, layout_of({2}), {.top_k = 2}).value, 0.9);
}

TEST_F(DeviceAuxLoss, OfSequencesInSeparateMicroBatchesAddsUp) {
  SampleFactory factory(pool_, DType::f64);
  const Tensor z = factory.uniform({10, 4}, -2.0, 2.0);
  const auto balancer = make_one("device_aux_loss", 4, options(1.0, 1.0));
  const double whole = loss_of(pool_, *balancer, z, layout_of({3, 7}), {.top_k = 2}).value;
  const auto values = z.span<double>();
  double sum = 0.0;
  for (const auto& part : {values.first(12), values.subspan(12)}) {
    const auto rows = static_cast<int64_t>(part.size()) / 4;
    sum += loss_of(pool_, *balancer, Tensor::of<double>(pool_, {rows, 4}, part), layout_of({rows}),
                   {.top_k = 2, .valid_tokens = 10, .global_sequences = 2})
               .value;
  }
  EXPECT_NEAR(sum, whole, 1e-15);
}

TEST_F(DeviceAuxLoss, HasTheGradientOfItsValue) {
  for (const std::string scope : {"sequence", "micro_batch"}) {
    nlohmann::json given = options(1.0, 0.7);
    given["scope"] = scope;
    const auto balancer = make_one("device_aux_loss", 4, given);
    testing::expect_loss_gradients(pool_, *balancer);
  }
}

TEST_F(DeviceAuxLoss, IgnoresMaskedTokensAndEmptySlots) {
  std::vector<double> z = {5.0, -3.0, 1.0, 2.0};
  const auto fixture = f1_logits();
  z.insert(z.end(), fixture.begin(), fixture.end());
  SequenceLayout layout = layout_of({5});
  layout.counted[0] = 0;
  const auto balancer = make_one("device_aux_loss", 4, options(1.0, 1.0));
  Tape tape(pool_);
  const RoutedBatch batch(tape, Tensor::of<double>(pool_, {5, 4}, z), layout, {.top_k = 2});
  Selection selection = batch.route(*balancer);
  EXPECT_NEAR(batch.loss(tape, *balancer, selection).item(), 1.094141 + 0.672071, 2.0 * kPrinted);
  selection.expert.assign(10, kNoExpert);
  EXPECT_EQ(batch.loss(tape, *balancer, selection).item(), 0.0);
}

TEST_F(DeviceAuxLoss, CountsTokensOfASelectionWithMoreSlotsThanTopK) {
  nlohmann::json given = options(1.0, 1.0);
  given["selection"] = "executed";
  const auto balancer = make_one("device_aux_loss", 4, given);
  Tape tape(pool_);
  const RoutedBatch batch(tape, Tensor::of<double>(pool_, {4, 4}, f1_logits()), layout_of({4}),
                          {.top_k = 2});
  const Selection narrow = batch.route(*balancer);
  Selection wide = narrow;
  wide.top_k = 3;
  wide.expert.assign(12, kNoExpert);
  for (size_t t = 0; t < 4; ++t) {
    std::copy_n(narrow.expert.begin() + static_cast<int64_t>(2 * t), 2,
                wide.expert.begin() + static_cast<int64_t>(3 * t));
  }
  EXPECT_EQ(batch.loss(tape, *balancer, wide).item(), batch.loss(tape, *balancer, narrow).item());
}

TEST_F(DeviceAuxLoss, RefusesGroupsThatDoNotDivideTheExperts) {
  try {
    (void)make_one("device_aux_loss", 16, {{"groups", 3}});
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_STREQ(error.what(),
                 "balance: device_aux_loss.groups: found 3, allowed a divisor of 16 (num_experts)");
  }
  EXPECT_EQ(testing::method("device_aux_loss", {{"groups", 2}, {"max_groups", 3}}).config->check(),
            "max_groups: found 3, allowed 1 to 2 (groups)");
}

}  // namespace
}  // namespace sluice
