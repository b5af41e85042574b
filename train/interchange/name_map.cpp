#include "train/interchange/name_map.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <tuple>

#include "autograd/support/error.h"

namespace sluice {
namespace {

/// Elements of a transposed tensor that are read at a time.
constexpr int64_t kElementsAtATime = int64_t{1} << 18;

struct LayerPlaceholder {
  std::string_view text;
  int64_t factor;
  int64_t offset;
};
constexpr std::array<LayerPlaceholder, 3> kLayers = {
    {{"{i}", 1, 0}, {"{2i}", 2, 0}, {"{2i+1}", 2, 1}}};

/// Their layer number when `name` is of the form `pattern`; -1 for a pattern without one.
std::optional<int64_t> matched_layer(std::string_view pattern, std::string_view name) {
  for (const LayerPlaceholder& layer : kLayers) {
    const size_t at = pattern.find(layer.text);
    if (at == std::string_view::npos) continue;
    if (name.substr(0, at) != pattern.substr(0, at)) return std::nullopt;
    const std::string_view rest = name.substr(at);
    int64_t number = 0;
    const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), number);
    const std::string_view tail(end, static_cast<size_t>(rest.data() + rest.size() - end));
    if (error != std::errc() || tail != pattern.substr(at + layer.text.size())) return std::nullopt;
    if (number < layer.offset || (number - layer.offset) % layer.factor != 0) return std::nullopt;
    return (number - layer.offset) / layer.factor;
  }
  if (pattern == name) return -1;
  return std::nullopt;
}

std::string replaced(std::string_view text, std::string_view what, std::string_view by) {
  const size_t at = text.find(what);
  if (at == std::string_view::npos) return std::string(text);
  return fmt::format("{}{}{}", text.substr(0, at), by, text.substr(at + what.size()));
}

std::string our_name(std::string_view pattern, int64_t their_layer) {
  std::string name(pattern);
  for (const LayerPlaceholder& layer : kLayers) {
    name = replaced(name, layer.text, fmt::format("{}", their_layer * layer.factor + layer.offset));
  }
  return name;
}

std::string their_name(std::string_view pattern, int64_t layer, int64_t expert) {
  return replaced(replaced(pattern, "{i}", fmt::format("{}", layer)), "{e}",
                  fmt::format("{}", expert));
}

int64_t product(std::span<const int64_t> dims) {
  int64_t result = 1;
  for (const int64_t dim : dims) result *= dim;
  return result;
}

class PieceMaker {
 public:
  PieceMaker(const NameMap& map, std::span<const ParameterShape> parameters,
             FunctionRef<bool(const std::string&)> has)
      : map_(map), parameters_(parameters), has_(has) {
    for (size_t i = 0; i < parameters.size(); ++i) number_of_.emplace(parameters[i].name, i);
  }

  std::vector<Piece> make() {
    for (size_t i = 0; i < parameters_.size(); ++i) add(i);
    return std::move(pieces_);
  }

 private:
  [[nodiscard]] static bool is_stacked(const NameRow& row) {
    return row.form == Form::all_experts || row.theirs.find("{e}") != std::string_view::npos;
  }

  void add(size_t parameter) {
    const std::string& name = parameters_[parameter].name;
    const NameRow* chosen = nullptr;
    int64_t layer = -1;
    for (const NameRow& row : map_.rows) {
      const auto matched = matched_layer(row.ours, name);
      if (!matched) continue;
      const bool is_there = has_(their_name(row.theirs, *matched, 0));
      if (chosen != nullptr && !is_there) continue;
      chosen = &row;
      layer = *matched;
      if (is_there) break;
    }
    SLUICE_CHECK(ConfigError, chosen != nullptr, "the parameter {} has no tensor there", name);
    add(parameter, *chosen, layer);
  }

  /// Rows of a parameter, without its experts.
  [[nodiscard]] int64_t rows_of(const ParameterShape& parameter, const NameRow& row) const {
    const size_t first = is_stacked(row) ? 1 : 0;
    return parameter.dims.size() > first ? parameter.dims[first] : 1;
  }

  /// Rows of the tensor that come before those of `row`, and all of them.
  [[nodiscard]] std::pair<int64_t, int64_t> place_in_tensor(const NameRow& row,
                                                            int64_t layer) const {
    int64_t before = 0;
    int64_t all = 0;
    for (const NameRow& other : map_.rows) {
      if (&other == &row) before = all;
      if (other.theirs != row.theirs) continue;
      const auto found = number_of_.find(our_name(other.ours, layer));
      if (found != number_of_.end()) all += rows_of(parameters_[found->second], other);
    }
    return {before, all};
  }

  void add(size_t parameter, const NameRow& row, int64_t layer) {
    const std::vector<int64_t>& dims = parameters_[parameter].dims;
    const bool stacked = is_stacked(row);
    const int64_t experts = stacked && !dims.empty() ? dims[0] : 1;
    const size_t matrix_dims = dims.size() - (stacked ? 1 : 0);
    Piece piece{.parameter = parameter, .form = row.form};
    piece.rows = rows_of(parameters_[parameter], row);
    piece.columns =
        matrix_dims < 2 ? 1 : product(dims) / experts / std::max<int64_t>(piece.rows, 1);
    std::tie(piece.tensor_row, piece.tensor_rows) = place_in_tensor(row, layer);
    piece.tensor_dims = {piece.tensor_rows};
    if (matrix_dims >= 2) piece.tensor_dims.push_back(piece.columns);
    if (row.form == Form::transposed) std::ranges::reverse(piece.tensor_dims);
    if (row.form == Form::convolution) piece.tensor_dims = {piece.tensor_rows, 1, piece.columns};
    if (row.form == Form::all_experts) {
      piece.tensor_dims.insert(piece.tensor_dims.begin(), experts);
    }
    for (int64_t expert = 0; expert < experts; ++expert) {
      piece.tensor = their_name(row.theirs, layer, expert);
      piece.our_first = expert * piece.rows * piece.columns;
      piece.tensor_first =
          row.form == Form::all_experts ? expert * piece.tensor_rows * piece.columns : 0;
      pieces_.push_back(piece);
    }
  }

  const NameMap& map_;
  std::span<const ParameterShape> parameters_;
  FunctionRef<bool(const std::string&)> has_;
  std::map<std::string, size_t, std::less<>> number_of_;
  std::vector<Piece> pieces_;
};

/// The row of a head in half-split order that is row `row` of it in interleaved order.
int64_t half_split_row(int64_t row, int64_t head_dim) {
  return row % 2 == 0 ? row / 2 : head_dim / 2 + row / 2;
}

/// Calls body(row of ours, row of theirs) for the rows of a head.
template <class Body>
void for_each_row_of_head(const Rotation& rotation, Body&& body) {
  for (int64_t row = 0; row < rotation.head_dim; ++row) {
    const int64_t other = half_split_row(row, rotation.head_dim);
    if (rotation.order == HeadOrder::theirs_interleaved) body(other, row);
    if (rotation.order == HeadOrder::ours_interleaved) body(row, other);
  }
}

bool turns(const Piece& piece, const Rotation& rotation) {
  return rotation.order != HeadOrder::same &&
         (piece.form == Form::query || piece.form == Form::key);
}

void copy_row(std::span<const float> from, int64_t from_row, std::span<float> to, int64_t to_row,
              int64_t columns) {
  std::copy_n(from.begin() + from_row * columns, columns, to.begin() + to_row * columns);
}

}  // namespace

std::vector<Piece> pieces_of(const NameMap& map, std::span<const ParameterShape> parameters,
                             FunctionRef<bool(const std::string&)> has) {
  return PieceMaker(map, parameters, has).make();
}

void read_piece(const Piece& piece, const Rotation& rotation, ReadElements tensor,
                std::span<float> parameter) {
  const int64_t columns = piece.columns;
  const auto ours = parameter.subspan(static_cast<size_t>(piece.our_first),
                                      static_cast<size_t>(piece.rows * columns));
  if (piece.form == Form::transposed) {
    // Their row c holds column c of all parts.
    const int64_t width = piece.tensor_rows;
    const int64_t step = std::max<int64_t>(1, kElementsAtATime / std::max<int64_t>(1, width));
    std::vector<float> block;
    for (int64_t begin = 0; begin < columns; begin += step) {
      const int64_t end = std::min(begin + step, columns);
      block.resize(static_cast<size_t>((end - begin) * width));
      tensor(piece.tensor_first + begin * width, block);
      for (int64_t row = 0; row < piece.rows; ++row) {
        for (int64_t c = begin; c < end; ++c) {
          ours[static_cast<size_t>(row * columns + c)] =
              block[static_cast<size_t>((c - begin) * width + piece.tensor_row + row)];
        }
      }
    }
    return;
  }
  const int64_t first = piece.tensor_first + piece.tensor_row * columns;
  if (!turns(piece, rotation)) {
    tensor(first, ours);
    return;
  }
  const auto head_elements = static_cast<size_t>(rotation.head_dim * columns);
  std::vector<float> head(head_elements);
  for (size_t at = 0; at < ours.size(); at += head_elements) {
    tensor(first + static_cast<int64_t>(at), head);
    for_each_row_of_head(rotation, [&](int64_t our_row, int64_t their_row) {
      copy_row(head, their_row, ours.subspan(at, head_elements), our_row, columns);
    });
  }
}

void write_piece(const Piece& piece, const Rotation& rotation, std::span<const float> parameter,
                 std::span<float> tensor) {
  const int64_t columns = piece.columns;
  const auto ours = parameter.subspan(static_cast<size_t>(piece.our_first),
                                      static_cast<size_t>(piece.rows * columns));
  if (piece.form == Form::transposed) {
    for (int64_t c = 0; c < columns; ++c) {
      for (int64_t row = 0; row < piece.rows; ++row) {
        tensor[static_cast<size_t>(piece.tensor_first + c * piece.tensor_rows + piece.tensor_row +
                                   row)] = ours[static_cast<size_t>(row * columns + c)];
      }
    }
    return;
  }
  const auto theirs = tensor.subspan(
      static_cast<size_t>(piece.tensor_first + piece.tensor_row * columns), ours.size());
  if (!turns(piece, rotation)) {
    std::ranges::copy(ours, theirs.begin());
    return;
  }
  const auto head_elements = static_cast<size_t>(rotation.head_dim * columns);
  for (size_t at = 0; at < ours.size(); at += head_elements) {
    for_each_row_of_head(rotation, [&](int64_t our_row, int64_t their_row) {
      copy_row(ours.subspan(at, head_elements), our_row, theirs.subspan(at, head_elements),
               their_row, columns);
    });
  }
}

}  // namespace sluice
