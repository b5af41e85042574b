#pragma once
// HDF5 files: named arrays in groups, with attributes.
//
//   auto file = hdf5::File::create_image("logits", raise_as<DataError>);
//   file.write<float>("/logits", {tokens, vocabulary}, values);      // groups on the way are
//   created file.set_attribute("/", "step", int64_t{200});
//   write_file_atomically(real_file_system(), "logits.h5", file.image(), raise_as<DataError>);
//
//   auto shard = hdf5::File::open("tokens.h5", raise_as<DataError>);
//   std::vector<uint16_t> tokens = shard.read<uint16_t>("/tokens");
//
// The library must not be entered by two threads at once, so every call here takes one process-wide
// lock. Its error stack is silenced and becomes the last part of our message. Datasets are
// contiguous (tables that grow: chunked) and little-endian, and files carry no time stamps: the same contents give the same
// bytes. Files need HDF5 1.8 or later to be read.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "autograd/support/element_type.h"
#include "autograd/support/file.h"

namespace sluice::hdf5 {

struct DatasetInfo {
  ElementType type = ElementType::f32;
  std::vector<int64_t> dims;  // outermost first; empty for a scalar
  [[nodiscard]] int64_t numel() const;
};

struct ImageOptions {
  int64_t user_block_bytes = 0;  // 0, or a power of two of at least 512: kept free at the front
  int64_t expected_bytes = int64_t{1} << 20;  // memory is taken in steps of this size
};

/// Paths are absolute ("/model/layers.3.experts.w_up"). Every call raises the error type given at
/// opening, with the file and the path in front.
class File {
 public:
  /// A file in memory; see image().
  [[nodiscard]] static File create_image(std::string name, RaiseError raise,
                                         ImageOptions options = {});
  /// A file in memory of which only what describes it takes memory: datasets get their place by
  /// reserve(), and whoever assembles the file copies their elements there himself.
  ///
  ///   auto outline = hdf5::File::create_outline("c.h5", raise_as<CheckpointError>);
  ///   const int64_t at = outline.reserve("/model/w", ElementType::f32, {8, 4});
  ///   std::vector<std::byte> image(outline.finish());
  ///   outline.copy_to(image);                       // all but the elements of reserved datasets
  ///   std::memcpy(image.data() + at, w, 8 * 4 * 4);
  [[nodiscard]] static File create_outline(std::string name, RaiseError raise,
                                           int64_t user_block_bytes = 0);
  /// A file on disk, replaced if it exists. For outputs too large for memory; it is not atomic.
  /// `name` stands in messages, the path when it is empty.
  [[nodiscard]] static File create(const std::filesystem::path& path, RaiseError raise,
                                   const std::string& name = {});
  /// Opens for reading.
  [[nodiscard]] static File open(const std::filesystem::path& path, RaiseError raise);
  /// Opens a copy of `image` for reading.
  [[nodiscard]] static File open_image(std::span<const std::byte> image, std::string name,
                                       RaiseError raise);
  File(File&&) noexcept;
  File& operator=(File&&) noexcept;
  ~File();

  // Structure.
  [[nodiscard]] bool exists(const std::string& path) const;
  /// Names directly inside a group, in alphabetical order.
  [[nodiscard]] std::vector<std::string> children(const std::string& group) const;
  /// Paths of all datasets below `group`, in alphabetical order.
  [[nodiscard]] std::vector<std::string> datasets(const std::string& group = "/") const;
  /// Raises for a dataset that holds no supported element type (a text, a compound).
  [[nodiscard]] DatasetInfo info(const std::string& path) const;
  [[nodiscard]] bool is_text(const std::string& path) const;

  // Whole datasets. Sizes and types must match exactly; nothing is converted but byte order.
  void write(const std::string& path, ElementType type, std::span<const int64_t> dims,
             std::span<const std::byte> bytes);
  void read(const std::string& path, ElementType type, std::span<std::byte> bytes) const;
  void write_text(const std::string& path, std::string_view text);
  [[nodiscard]] std::string read_text(const std::string& path) const;

  // Rows: a range of the first dimension.
  void create_dataset(const std::string& path, ElementType type, std::span<const int64_t> dims);
  void write_rows(const std::string& path, ElementType type, int64_t first_row,
                  std::span<const std::byte> bytes);
  void read_rows(const std::string& path, ElementType type, int64_t first_row,
                 std::span<std::byte> bytes) const;

  // Outlines.
  /// A dataset whose elements the caller provides, little-endian: the offset in the file of the
  /// first of them, -1 when there are none. Those of 64 KiB and more start at a multiple of 64.
  [[nodiscard]] int64_t reserve(const std::string& path, ElementType type,
                                std::span<const int64_t> dims);
  /// Closes the file, which takes only copy_to() from then on, and gives its size in bytes.
  [[nodiscard]] int64_t finish();
  /// Copies everything but reserved elements to the same place in `image`, of finish() bytes.
  void copy_to(std::span<std::byte> image) const;

  // Tables that grow at their end: [rows, width], or [rows] for a width of 0. They lie in chunks of
  // `rows_hint` rows (fewer for wide rows), each with a checksum that every reader verifies. A later
  // append may be wider; what rows lack is `fill`.
  void create_table(const std::string& path, ElementType type, int64_t width, int64_t rows_hint,
                    int64_t fill = 0);
  void append_rows(const std::string& path, ElementType type, int64_t width,
                   std::span<const std::byte> bytes);

  template <Element T>
  void write(const std::string& path, std::initializer_list<int64_t> dims,
             std::span<const T> values) {
    write(path, element_type_of<T>, std::span<const int64_t>(dims.begin(), dims.size()),
          std::as_bytes(values));
  }
  template <Element T>
  [[nodiscard]] std::vector<T> read(const std::string& path) const {
    std::vector<T> values(static_cast<size_t>(info(path).numel()));
    read(path, element_type_of<T>, std::as_writable_bytes(std::span<T>(values)));
    return values;
  }
  template <Element T>
  void write_rows(const std::string& path, int64_t first_row, std::span<const T> values) {
    write_rows(path, element_type_of<T>, first_row, std::as_bytes(values));
  }
  template <Element T>
  void read_rows(const std::string& path, int64_t first_row, std::span<T> values) const {
    read_rows(path, element_type_of<T>, first_row, std::as_writable_bytes(values));
  }

  template <Element T>
  void append_rows(const std::string& path, int64_t width, std::span<const T> values) {
    append_rows(path, element_type_of<T>, width, std::as_bytes(values));
  }

  // Attributes of a group ("/" for the file's own) or dataset.
  void set_attribute(const std::string& object, const std::string& name, int64_t value);
  void set_attribute(const std::string& object, const std::string& name, double value);
  void set_attribute(const std::string& object, const std::string& name, std::string_view value);
  [[nodiscard]] bool has_attribute(const std::string& object, const std::string& name) const;
  [[nodiscard]] int64_t integer_attribute(const std::string& object, const std::string& name) const;
  [[nodiscard]] double number_attribute(const std::string& object, const std::string& name) const;
  [[nodiscard]] std::string text_attribute(const std::string& object,
                                           const std::string& name) const;

  /// The bytes of a file made by create_image, user block included (zeros). Valid until the next
  /// call on this object.
  [[nodiscard]] std::span<const std::byte> image();
  /// Flushes and closes a file on disk, raising what a destructor would have to swallow.
  void close();

 private:
  struct State;
  explicit File(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace sluice::hdf5
