#pragma once
// The HDF5 library behind hdf5.cpp: its one lock, its identifiers as owners, its types and property
// lists. Included by hdf5.cpp alone.

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <hdf5.h>

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "autograd/support/element_type.h"

namespace sluice::hdf5::detail {

// The lock. Held for the length of one public call, with the library's own printing of errors
// switched off.
class Library {
 public:
  Library() : lock_(mutex()) {
    // The library's own closing at exit crashes on a file that could not be flushed (a full disk).
    [[maybe_unused]] static const herr_t no_closing_at_exit = H5dont_atexit();
    H5open();
    H5Eget_auto2(H5E_DEFAULT, &print_, &print_argument_);
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
    H5Eclear2(H5E_DEFAULT);
  }
  ~Library() { H5Eset_auto2(H5E_DEFAULT, print_, print_argument_); }
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

 private:
  static std::mutex& mutex() {
    static std::mutex mutex;
    return mutex;
  }
  std::lock_guard<std::mutex> lock_;
  H5E_auto2_t print_ = nullptr;
  void* print_argument_ = nullptr;
};

// Owns one identifier of the library.
class Id {
 public:
  using Close = herr_t (*)(hid_t);
  Id(hid_t id, Close close) : id_(id), close_(close) {}
  Id(Id&& other) noexcept : id_(std::exchange(other.id_, H5I_INVALID_HID)), close_(other.close_) {}
  Id& operator=(Id&&) = delete;
  ~Id() {
    if (id_ >= 0) close_(id_);
  }
  [[nodiscard]] bool valid() const { return id_ >= 0; }
  [[nodiscard]] hid_t get() const { return id_; }
  hid_t release() { return std::exchange(id_, H5I_INVALID_HID); }

 private:
  hid_t id_;
  Close close_;
};

// A failed write comes with a page of its own variables; the system's words are enough.
inline std::string without_variables(const std::string& text) {
  constexpr std::string_view kBefore = "error message = '";
  const size_t found = text.find(kBefore);
  if (found == std::string::npos) return text;
  const size_t begin = found + kBefore.size();
  return text.substr(0, text.find(':')) + ": " + text.substr(begin, text.find('\'', begin) - begin);
}

// The innermost entry of the library's error stack: what really went wrong.
inline std::string library_reason() {
  std::string text;
  H5Ewalk2(
      H5E_DEFAULT, H5E_WALK_UPWARD,
      [](unsigned, const H5E_error2_t* entry, void* out) -> herr_t {
        auto& reason = *static_cast<std::string*>(out);
        if (reason.empty() && entry->desc != nullptr) reason = entry->desc;
        return 0;
      },
      &text);
  return text.empty() ? "the HDF5 library gave no reason" : without_variables(text);
}

// A type as it is stored, and as it lies in memory.
struct TypeIds {
  hid_t file;
  hid_t memory;
};
inline TypeIds ids_of(ElementType type) {
  switch (type) {
    case ElementType::f32:
      return {H5T_IEEE_F32LE, H5T_NATIVE_FLOAT};
    case ElementType::f64:
      return {H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE};
    case ElementType::i32:
      return {H5T_STD_I32LE, H5T_NATIVE_INT32};
    case ElementType::i64:
      return {H5T_STD_I64LE, H5T_NATIVE_INT64};
    case ElementType::u8:
      return {H5T_STD_U8LE, H5T_NATIVE_UINT8};
    case ElementType::u16:
      return {H5T_STD_U16LE, H5T_NATIVE_UINT16};
    case ElementType::u32:
      return {H5T_STD_U32LE, H5T_NATIVE_UINT32};
    case ElementType::u64:
      return {H5T_STD_U64LE, H5T_NATIVE_UINT64};
  }
  return {H5I_INVALID_HID, H5I_INVALID_HID};
}

// The element type of a stored type, in either byte order; false when there is none.
inline bool element_type(hid_t stored, ElementType& type) {
  const H5T_class_t kind = H5Tget_class(stored);
  const size_t bytes = H5Tget_size(stored);
  if (kind == H5T_FLOAT) {
    type = bytes == 4 ? ElementType::f32 : ElementType::f64;
    return bytes == 4 || bytes == 8;
  }
  if (kind != H5T_INTEGER) return false;
  const bool is_signed = H5Tget_sign(stored) == H5T_SGN_2;
  switch (bytes) {
    case 1:
      type = ElementType::u8;
      return !is_signed;
    case 2:
      type = ElementType::u16;
      return !is_signed;
    case 4:
      type = is_signed ? ElementType::i32 : ElementType::u32;
      return true;
    case 8:
      type = is_signed ? ElementType::i64 : ElementType::u64;
      return true;
    default:
      return false;
  }
}

inline int64_t product(std::span<const int64_t> dims) {
  int64_t total = 1;
  for (const int64_t dim : dims) total *= dim;
  return total;
}

inline std::vector<hsize_t> to_hsize(std::span<const int64_t> dims) {
  return {dims.begin(), dims.end()};
}

inline Id make_space(std::span<const int64_t> dims) {
  if (dims.empty()) return {H5Screate(H5S_SCALAR), H5Sclose};
  const auto sizes = to_hsize(dims);
  return {H5Screate_simple(static_cast<int>(sizes.size()), sizes.data(), nullptr), H5Sclose};
}

inline Id text_type(size_t bytes) {
  Id type(H5Tcopy(H5T_C_S1), H5Tclose);
  H5Tset_size(type.get(), std::max<size_t>(bytes, 1));
  H5Tset_strpad(type.get(), H5T_STR_NULLPAD);
  H5Tset_cset(type.get(), H5T_CSET_UTF8);
  return type;
}

// What a text is without the zeros that fill up its fixed size; and a text as such, at least one
// byte long.
inline std::string without_padding(std::string text) {
  text.erase(text.find_last_not_of('\0') + 1);
  return text;
}
inline std::string with_padding(std::string_view text) {
  return text.empty() ? std::string(1, '\0') : std::string(text);
}

// Files that any HDF5 since 1.8 reads, whose metadata carries checksums, and which open on
// read-only mounts.
inline Id access_properties() {
  Id access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  H5Pset_libver_bounds(access.get(), H5F_LIBVER_V18, H5F_LIBVER_LATEST);
  H5Pset_fclose_degree(access.get(), H5F_CLOSE_STRONG);
#if H5_VERSION_GE(1, 10, 7)
  H5Pset_file_locking(access.get(), false, true);
#endif
  return access;
}

inline Id creation_properties(int64_t user_block_bytes) {
  Id creation(H5Pcreate(H5P_FILE_CREATE), H5Pclose);
  H5Pset_userblock(creation.get(), static_cast<hsize_t>(user_block_bytes));
  H5Pset_obj_track_times(creation.get(), false);
  return creation;
}

inline Id link_properties() {
  Id links(H5Pcreate(H5P_LINK_CREATE), H5Pclose);
  H5Pset_char_encoding(links.get(), H5T_CSET_UTF8);
  return links;
}

// A chunked dataset whose chunks carry a checksum (Fletcher32) and whose gaps read as `fill`.
inline Id table_properties(std::span<const int64_t> chunk, int64_t fill) {
  Id creation(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  H5Pset_obj_track_times(creation.get(), false);
  const auto sizes = to_hsize(chunk);
  H5Pset_chunk(creation.get(), static_cast<int>(sizes.size()), sizes.data());
  H5Pset_fletcher32(creation.get());
  H5Pset_fill_value(creation.get(), H5T_NATIVE_INT64, &fill);
  return creation;
}

inline Id dataset_properties() {
  Id creation(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  H5Pset_obj_track_times(creation.get(), false);
  H5Pset_layout(creation.get(), H5D_CONTIGUOUS);
  // Filled completely or on purpose in part: writing zeros first would double the work.
  H5Pset_fill_time(creation.get(), H5D_FILL_TIME_IFSET);
  return creation;
}

/// What is wrong with a shape, "" when nothing is: it is a claim of the file, and nobody takes memory for
/// elements that are not there.
inline std::string extent_fault(const Id& dataset, std::span<const int64_t> dims,
                                int64_t element_bytes) {
  constexpr int64_t kMaxBytes = int64_t{1} << 48;
  int64_t bytes = element_bytes;
  for (const int64_t dim : dims) {
    if (dim < 0 || (dim > 0 && bytes > kMaxBytes / dim)) {
      return fmt::format("is [{}], more than a file can hold", fmt::join(dims, ", "));
    }
    bytes *= dim;
  }
  const Id creation(H5Dget_create_plist(dataset.get()), H5Pclose);
  const auto stored = static_cast<int64_t>(H5Dget_storage_size(dataset.get()));
  if (H5Pget_layout(creation.get()) != H5D_CONTIGUOUS || stored >= bytes) return {};
  return fmt::format("is [{}], {} bytes, of which the file holds {}", fmt::join(dims, ", "), bytes,
                     stored);
}

}  // namespace sluice::hdf5::detail
