#pragma once
// Which tensor of somebody else's file holds which parameter of ours.
//
// A name map is a flat table; each row pairs a parameter with a tensor:
//
//   {"layers.{2i}.attention.w_q", "model.layers.{i}.self_attn.q_proj.weight", Form::query}
//   {"layers.{2i+1}.experts.w_gate", "model.layers.{i}.mlp.experts.{e}.gate_proj.weight"}
//
// {2i}, {2i+1} and {i} on the left are the number of a sublayer; on the right {i} is the number of
// their layer, {e} that of an expert, whose matrices are stacked here and single there. Rows with one
// tensor in common lie in it one after the other. Of several rows for a parameter the first is
// written, the others are only read.

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "autograd/support/function_ref.h"

namespace sluice {

/// How the tensor differs from the parameter.
enum class Form : uint8_t {
  same,
  transposed,   // [in, out]
  query,        // rows of query heads, which rotate
  key,          // rows of key heads
  all_experts,  // all experts in one tensor [E, rows, columns]
  convolution,  // [channels, 1, taps]
};

struct NameRow {
  std::string_view ours;
  std::string_view theirs;
  Form form = Form::same;
};

struct NameMap {
  std::span<const NameRow> rows;
  /// Their names may come without it ("model.", "transformer.").
  std::string_view prefix;
  /// Tensors that hold nothing to read, as file patterns.
  std::span<const std::string_view> ignored;
};

/// Name and shape of a parameter of ours.
struct ParameterShape {
  std::string name;
  std::vector<int64_t> dims;
};

/// A block of rows that both sides have. Seen from our side it is a matrix [rows, columns] at element
/// `our_first` of the parameter; in the tensor those are the rows tensor_row .. tensor_row + rows - 1
/// of a matrix [tensor_rows, columns] at element `tensor_first`, or columns of its transpose.
struct Piece {
  size_t parameter = 0;  // number in the list
  std::string tensor;
  std::vector<int64_t> tensor_dims;
  Form form = Form::same;
  int64_t our_first = 0;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t tensor_first = 0;
  int64_t tensor_row = 0;
  int64_t tensor_rows = 0;
};

/// The pieces that make up all parameters, in their order. `has(tensor)` says whether the file holds
/// it; of a parameter none of whose rows has a tensor there, the first row's pieces stand in the
/// result. Throws ConfigError for a parameter without a row.
[[nodiscard]] std::vector<Piece> pieces_of(const NameMap& map,
                                           std::span<const ParameterShape> parameters,
                                           FunctionRef<bool(const std::string&)> has);

/// Reads rows of a tensor that is [.., columns]: elements first .. first + out.size() - 1.
using ReadElements = FunctionRef<void(int64_t first, std::span<float> out)>;

/// Half-split and interleaved order of the rows of a head that rotates: ours to theirs.
enum class HeadOrder : uint8_t { same, theirs_interleaved, ours_interleaved };

struct Rotation {
  HeadOrder order = HeadOrder::same;
  int64_t head_dim = 0;
};

/// parameter <- tensor; `parameter` holds all of its elements.
void read_piece(const Piece& piece, const Rotation& rotation, ReadElements tensor,
                std::span<float> parameter);
/// tensor <- parameter; `tensor` holds all of its elements.
void write_piece(const Piece& piece, const Rotation& rotation, std::span<const float> parameter,
                 std::span<float> tensor);

}  // namespace sluice
