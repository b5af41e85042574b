#include "layers/mixers/mixture_of_memories.h"

#include "autograd/ops/gated_delta_rule.h"
#include "layers/mixers/gated_delta_net.h"
#include "layers/routers/top_k.h"
#include "tests/layers/layer_checks.h"

namespace sluice {
namespace {

using namespace testing_support;

MixtureOfMemoriesConfig& section_of(ModelConfig& config) {
  return dynamic_cast<MixtureOfMemoriesConfig&>(config.section("mixture_of_memories"));
}

ModelConfig config_of(const std::string& pattern = "OF") {
  ModelConfig config = tiny_config(pattern);
  section_of(config).heads.num_heads = 2;
  section_of(config).heads.head_dim = 8;
  return config;
}

/// Every backend, and one projection for all memories.
std::vector<ModelConfig> variants(const std::string& pattern = "OF") {
  std::vector<ModelConfig> result;
  for (int i = 0; i < 5; ++i) result.push_back(config_of(pattern));
  section_of(result[1]).backend = MemoryBackend::gated_linear_attention;
  section_of(result[2]).backend = MemoryBackend::linear_attention;
  section_of(result[2]).shared_memory = false;
  section_of(result[3]).single_kv_proj = true;
  section_of(result[3]).heads.conv_kernel = {};
  section_of(result[4]).backend = MemoryBackend::gated_slot_attention;
  section_of(result[4]).num_slots = 6;
  return result;
}

TEST(MixtureOfMemories, IsASoundMixer) {
  for (const ModelConfig& config : variants("OF")) expect_a_sound_layer(config);
}

TEST(MixtureOfMemories, RoutesBesideExperts) { expect_same_on_any_threads(config_of("OEOE")); }

TEST(MixtureOfMemories, DecodesAtConstantMemory) {
  expect_constant_decoding_memory(config_of("OFOF"));
}

/// `from`'s values of the parameters that `to` has under the same last names.
void copy_parameters(const Model& from, const Model& to) {
  const auto last_names = [](const std::string& name) {
    for (const char* mixer : {"gated_delta_net.", "mixture_of_memories."}) {
      const size_t at = name.find(mixer);
      if (at != std::string::npos) return name.substr(0, at) + name.substr(name.find('.', at));
    }
    return name;
  };
  for (Parameter* target : to.parameters()) {
    bool found = false;
    for (const Parameter* source : from.parameters()) {
      if (last_names(source->name) != last_names(target->name)) continue;
      ASSERT_EQ(source->value.numel(), target->value.numel()) << target->name;
      std::ranges::copy(source->value.raw(), target->value.raw().begin());
      found = true;
    }
    ASSERT_TRUE(found) << target->name;
  }
}

ModelConfig one_memory() {
  ModelConfig config = config_of();
  section_of(config).num_experts = 1;
  section_of(config).top_k = 1.0;
  section_of(config).shared_memory = false;
  dynamic_cast<TopKRouterConfig&>(*section_of(config).router.config).weights = "as_is";
  return config;
}

TEST(MixtureOfMemories, OfOneMemoryWithoutASharedOneIsTheGatedDeltaNet) {
  Pool pool;
  const Model mixture(pool, one_memory(), 1);
  ModelConfig config = tiny_config("GF");
  auto& section = dynamic_cast<GatedDeltaNetConfig&>(config.section("gated_delta_net"));
  section.heads.num_heads = 2;
  section.heads.head_dim = 8;
  const Model plain(pool, config, 1);
  copy_parameters(mixture, plain);
  const TinyBatch batch = tiny_batch(pool, {{40, 90}, {3, 66}});
  EXPECT_TRUE(same_bits(hidden_of(pool, mixture, batch, /*training=*/false),
                        hidden_of(pool, plain, batch, /*training=*/false)));
}

TEST(MixtureOfMemories, LeavesMemoriesAloneThatATokenDoesNotUse) {
  Pool pool;
  ModelConfig config = config_of("O");
  section_of(config).num_experts = 5;
  const Model model(pool, config, 1);
  const TinyBatch batch = tiny_batch(pool, {{40}});
  DecodeState state = model.start_decoding(pool, 40);
  auto& own = dynamic_cast<MixtureOfMemoriesState&>(*state.sublayers[0][0].mixer);
  Tape tape(pool);
  RoutingSession session = plain_session(model);
  std::vector<int64_t> used(5);
  for (int64_t t = 0; t < 40; ++t) {
    std::vector<MatrixMemoryState> before;
    for (const MatrixMemoryState& m : own.memories) {
      before.push_back({m.q_history.clone(pool), m.k_history.clone(pool), m.v_history.clone(pool),
                        m.memory.clone(pool)});
    }
    const SequenceLayout layout = SequenceLayout::single(pool, 1, t);
    ForwardContext context{tape, layout};
    context.routing = &session;
    session.begin_evaluation();
    (void)model.decode(
        context,
        Tensor::of<int32_t>(pool, {1}, std::vector<int32_t>{batch.tokens.data<int32_t>()[t]}),
        state);
    session.end_evaluation();
    int64_t changed = 0;
    for (size_t m = 0; m < 5; ++m) {
      const MatrixMemoryState& after = own.memories[m];
      const bool memory_stays = same_bits(before[m].memory, after.memory);
      // A history may hold the same row twice in turn; the memory never stays when it is written.
      if (memory_stays) {
        EXPECT_TRUE(same_bits(before[m].q_history, after.q_history));
        EXPECT_TRUE(same_bits(before[m].k_history, after.k_history));
        EXPECT_TRUE(same_bits(before[m].v_history, after.v_history));
      }
      changed += memory_stays ? 0 : 1;
      used[m] += memory_stays ? 0 : 1;
    }
    EXPECT_EQ(changed, 2) << "token " << t;
  }
  for (const int64_t tokens : used) EXPECT_LT(tokens, 40);
}

TEST(MixtureOfMemories, ReadsAsTheWeightedSumOfItsMemoriesWould) {
  // sum_m gamma_m S_m^T q = (sum_m gamma_m S_m)^T q, of memories as decoding left them.
  Pool pool;
  ModelConfig config = config_of("O");
  config.dtype = "f64";
  const Model model(pool, config, 1);
  const TinyBatch batch = tiny_batch(pool, {{60}});
  DecodeState state = model.start_decoding(pool, 60);
  decode_all(pool, model, batch, state);
  const auto& own = dynamic_cast<const MixtureOfMemoriesState&>(*state.sublayers[0][0].mixer);
  SampleFactory make(pool, DType::f64);
  const Tensor q = make.uniform({1, 2, 8});
  const Tensor nothing = Tensor::zeros(pool, {1, 2, 8}, DType::f64);
  Tape tape(pool);
  const auto read = [&](const Tensor& memory) {
    return advance_linear_attention(tape, {q, nothing, nothing, {}, {}}, 1.0, memory);
  };
  Tensor sum = Tensor::zeros(pool, {2, 8, 8}, DType::f64);
  std::vector<double> expected(16);
  for (size_t m = 0; m < own.memories.size(); ++m) {
    const double gamma = 0.1 + 0.2 * static_cast<double>(m);
    const Tensor o = read(own.memories[m].memory);
    for (int64_t i = 0; i < 16; ++i) expected[static_cast<size_t>(i)] += gamma * element(o, i);
    for (int64_t i = 0; i < sum.numel(); ++i) {
      sum.data<double>()[i] += gamma * element(own.memories[m].memory, i);
    }
  }
  const Tensor o = read(sum);
  for (int64_t i = 0; i < 16; ++i) {
    EXPECT_NEAR(element(o, i), expected[static_cast<size_t>(i)], 1e-13);
  }
}

TEST(MixtureOfMemories, KeepsTheLatestTokensWhereAMemoryHasNoRoomForAll) {
  // Half of eleven tokens are six: the memory sees the last six as if the document began there, and
  // the others read nothing.
  Pool pool;
  ModelConfig config = one_memory();
  config.pattern = "O";
  const Model roomy(pool, config, 1);
  ModelConfig half = one_memory();
  half.pattern = "O";
  section_of(half).capacity = 0.5;
  const Model narrow(pool, half, 1);
  const TinyBatch batch = tiny_batch(pool, {{11}});
  const auto trained_hidden = [&](const Model& model, const TinyBatch& some) {
    Tape tape(pool);
    const NoGrad no_grad(tape);
    RoutingSession session = plain_session(model);
    return model.forward(training_context(tape, some, session), some.tokens).hidden.detached();
  };
  const Tensor dropped = trained_hidden(narrow, batch);
  EXPECT_TRUE(same_bits(hidden_of(pool, narrow, batch, /*training=*/false),
                        hidden_of(pool, roomy, batch, /*training=*/false)));
  TinyBatch last;
  last.layout = SequenceLayout::single(pool, 6);
  last.layout.counted.assign(6, 1);
  const int32_t* tokens = batch.tokens.data<int32_t>() + 5;
  last.tokens = Tensor::of<int32_t>(pool, {6}, std::vector<int32_t>(tokens, tokens + 6));
  const Tensor expected = trained_hidden(roomy, last);
  for (int64_t i = 0; i < 6 * 32; ++i) {
    ASSERT_EQ(element(dropped, 5 * 32 + i), element(expected, i));
  }
  // A token that reads nothing keeps its embedding, divided by its root mean square.
  const Parameter* embedding = roomy.parameters()[0];
  for (int64_t t = 0; t < 5; ++t) {
    double square = 0.0;
    const int64_t row = batch.tokens.data<int32_t>()[t] * 32;
    for (int64_t d = 0; d < 32; ++d) square += std::pow(element(embedding->value, row + d), 2);
    const double rms = std::sqrt(square / 32 + 1e-5);
    for (int64_t d = 0; d < 32; ++d) {
      ASSERT_NEAR(element(dropped, t * 32 + d), element(embedding->value, row + d) / rms, 1e-5);
    }
  }
}

TEST(MixtureOfMemories, CountsTheParametersOfItsMemories) {
  // (M - 1) more projections to keys, values, decays and writing strengths than one memory has, and a
  // router.
  const auto count = [](const ModelConfig& config) {
    Pool pool;
    int64_t sum = 0;
    for (const Parameter* parameter : Model(pool, config, 1).parameters()) {
      sum += parameter->value.numel();
    }
    return sum;
  };
  ModelConfig four = one_memory();
  section_of(four).num_experts = 4;
  EXPECT_EQ(count(four) - count(one_memory()), 3 * (32 * 16 + 32 * 16 + 2 * 32 * 2) + 3 * 32);
  section_of(four).shared_memory = true;
  EXPECT_EQ(count(four) - count(one_memory()), 4 * (32 * 16 + 32 * 16 + 2 * 32 * 2) + 3 * 32);
}

}  // namespace
}  // namespace sluice
