// MoS, mixture of shards (Wang et al. 2024, arXiv 2410.00938): the factors of all layers are put together
// from shared pools.
//
//   row a of A = concat over j < l of P_A[I_A[a, j]],  P_A [n, in / l];   row a of B^T likewise from P_B
//
// A and B have pools and indices of their own (pair dissociation); the indices are drawn once, for every
// linear map and row, and saved with the weights as frozen parameters "index_a", "index_b". Of the l
// shards of a row the first p are the map's own and in no pool (privatisation). A pool serves the linear
// maps of one name in all layers. With l = p = 1 it is LoRA.

#include <array>
#include <cmath>

#include "autograd/ops/embedding.h"
#include "autograd/ops/reshape.h"
#include "layers/adapters/low_rank.h"

namespace sluice {
namespace {

struct MosConfig final : Configurable, AdapterSettings {
  int64_t shards = 2;
  int64_t private_shards = 0;
  int64_t pool_rank = 16;

  void fields(FieldVisitor& v) override {
    linears_field(v);
    rank_field(v);
    v.integer({"shards", "shards l that a row of A and a column of B are put together from"},
              shards, {.min = 1});
    v.integer({"private_shards", "of them, those that no other row shares"}, private_shards,
              {.min = 0});
    v.integer({"pool_rank", "size of the pools: as many shards as so many rows would have"},
              pool_rank, {.min = 1, .max = 65536});
    scale_fields(v);
  }
  [[nodiscard]] std::string check() const override {
    if (private_shards <= shards) return {};
    return fmt::format("private_shards: found {}, allowed 0 to {} (shards)", private_shards,
                       shards);
  }
};

/// A [r, width] from shards.
class ShardedFactor final : public Module {
 public:
  struct Spec {
    std::string which;  // "a"
    int64_t width;
    Init init;
    double std = 0.0;  // instead, where it is above 0
  };

  ShardedFactor(const Builder& b, const AdapterSetup& setup, const MosConfig& config,
                const Spec& spec)
      : rank_(config.rank),
        width_(spec.width),
        own_shards_(config.private_shards),
        shared_shards_(config.shards - config.private_shards) {
    SLUICE_CHECK(ConfigError, width_ % config.shards == 0,
                 "model.adapters.{}.shards: found {}, allowed a divisor of {}, a width of the map",
                 setup.name, config.shards, width_);
    const int64_t shard = width_ / config.shards;
    if (own_shards_ > 0) {
      own_ = &parameter(b, "w_" + spec.which, {rank_, own_shards_ * shard}, ParameterKind::matrix,
                        spec.init);
      fill_b(b, *own_, spec.std);
      own_->stays_f32 = true;
    }
    if (shared_shards_ == 0) return;
    const int64_t count = config.pool_rank * config.shards;
    pool_ = &setup.pools->pool(fmt::format("{}.pool_{}", setup.name, spec.which), {count, shard},
                               spec.init, spec.std);
    index_ = &parameter(b, "index_" + spec.which, {rank_, shared_shards_}, ParameterKind::matrix,
                        Init::zeros());
    index_->trainable = false;
    index_->stays_f32 = true;
    b.fill(*index_,
           [count](int64_t, double u) { return std::floor(u * static_cast<double>(count)); });
  }

  [[nodiscard]] Tensor tensor(Tape& tape) const {
    if (pool_ == nullptr) return tape.use(*own_);
    const Tensor shards = embedding(tape, tape.use(*pool_), shard_numbers(tape));
    const Tensor shared = reshape(tape, shards, {rank_, shards.numel() / rank_});
    if (own_ == nullptr) return shared;
    return concat_columns(tape, std::array{tape.use(*own_), shared});
  }

 private:
  /// [r * shared shards] i32
  [[nodiscard]] Tensor shard_numbers(Tape& tape) const {
    Tensor numbers = tape.empty({rank_ * shared_shards_}, DType::i32);
    if (!numbers.has_memory()) return numbers;
    dispatch_float(index_->value.dtype(), [&]<class T>() {
      const auto values = index_->value.span<T>();
      const auto out = numbers.span<int32_t>();
      for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<int32_t>(values[i]);
    });
    return numbers;
  }

  int64_t rank_;
  int64_t width_;
  int64_t own_shards_;
  int64_t shared_shards_;
  Parameter* own_ = nullptr;    // [r, own shards * width / l]
  Parameter* pool_ = nullptr;   // [n, width / l]
  Parameter* index_ = nullptr;  // [r, shared shards], whole numbers below n
};

class Mos final : public LowRankAdapter {
 public:
  Mos(const Builder& b, const AdapterSetup& setup, const MosConfig& config)
      : LowRankAdapter(b, setup, config, config.scale(config.rank)),
        a_(child(std::make_unique<ShardedFactor>(
            b, setup, config, ShardedFactor::Spec{"a", setup.in, Init::uniform(setup.in)}))),
        b_(child(std::make_unique<ShardedFactor>(
            b, setup, config, ShardedFactor::Spec{"b", setup.out, Init::zeros(), config.b_std}))) {}

 private:
  [[nodiscard]] FactorTensors factors(Tape& tape) const override {
    return {a_.tensor(tape), b_.tensor(tape)};
  }

  const ShardedFactor& a_;
  const ShardedFactor& b_;
};

}  // namespace

const AdapterEntry mos_adapter = {
    .name = "mos",
    .doc =
        "LoRAs put together from shards of pools that all layers share (MoS; Wang et al. 2024, "
        "arXiv 2410.00938)",
    .make_config = make_adapter_config<MosConfig>,
    .make = make_adapter<Mos, MosConfig>,
};

}  // namespace sluice
