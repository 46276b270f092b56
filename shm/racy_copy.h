// Copies between private and shared memory that another process may be changing meanwhile.
//
// What was copied means nothing until the version of its bucket was found unchanged afterwards.
// The language calls such a copy a data race; relaxed word-by-word copies are the legal form and
// cost two to three times a memcpy at 1 KiB. On x86-64 and arm64, where plain loads and stores of
// up to a word never fault or invent values, a memcpy between an acquire load before it and a fence
// after it does the same at full speed. Elsewhere, and under ThreadSanitizer, the legal form.
//
// What decides how much is read or where (a slot, a header) is always loaded as an atomic word,
// once: a compiler may load what it copied a second time, and find something else.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "shm/layout.h"

namespace larder::shm {

#if (defined(__x86_64__) || defined(__aarch64__)) && !defined(__SANITIZE_THREAD__)

inline void copy_from_shared(void* to, const void* from, std::size_t bytes) noexcept {
  std::memcpy(to, from, bytes);
}
// Into a string whose memory is reused, without filling it with zeros first.
inline void assign_from_shared(std::string& to, const char* from, std::size_t bytes) {
  // Copies the length that is known without the entry, so that the loads go out while its header is
  // still on its way from memory: a tenth of a get of 1 KiB. The barrier keeps the compiler from
  // taking the other length, which is the same.
  std::size_t known = to.size();
  asm("" : "+r"(known));
  if (to.size() == bytes) [[likely]] {
    char* into = to.data();
    if (known - 32 <= 32) {  // 32 to 64: quicker in line, overlapping in the middle
      std::memcpy(into, from, 16);
      std::memcpy(into + 16, from + 16, 16);
      std::memcpy(into + known - 32, from + known - 32, 16);
      std::memcpy(into + known - 16, from + known - 16, 16);
    } else {
      std::memcpy(into, from, known);
    }
  } else {
    to.assign(from, bytes);
  }
}
inline void copy_to_shared(void* to, const void* from, std::size_t bytes) noexcept {
  std::memcpy(to, from, bytes);
}
// Apart: in line, its call would push what a reader holds out of the registers.
[[gnu::noinline]] inline bool equals_any(const char* a, const char* b, std::size_t bytes) noexcept {
  return std::memcmp(a, b, bytes) == 0;
}
// Keys are short: a few words in line, overlapping where the length is odd, are quicker than a
// call.
inline bool equals_shared(const void* shared, const void* own, std::size_t bytes) noexcept {
  const auto* a = static_cast<const char*>(shared);
  const auto* b = static_cast<const char*>(own);
  const auto difference = [a, b](std::size_t at) {
    std::uint64_t one;
    std::uint64_t two;
    std::memcpy(&one, a + at, sizeof one);
    std::memcpy(&two, b + at, sizeof two);
    return one ^ two;
  };
  if (bytes - 16 <= 16) [[likely]] {  // 16 to 32
#if defined(__SSE2__)
    const auto load = [](const char* p) {
      return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    };
    const __m128i x = _mm_xor_si128(load(a), load(b));
    const __m128i y = _mm_xor_si128(load(a + bytes - 16), load(b + bytes - 16));
    return _mm_movemask_epi8(_mm_cmpeq_epi8(_mm_or_si128(x, y), _mm_setzero_si128())) == 0xffff;
#else
    return (difference(0) | difference(8) | difference(bytes - 16) | difference(bytes - 8)) == 0;
#endif
  }
  if (bytes - 8 < 8) return (difference(0) | difference(bytes - 8)) == 0;
  return equals_any(a, b, bytes);
}

#else

inline void copy_from_shared(void* to, const void* from, std::size_t bytes) noexcept {
  auto* out = static_cast<unsigned char*>(to);
  auto* in = const_cast<unsigned char*>(static_cast<const unsigned char*>(from));
  for (std::size_t i = 0; i < bytes; ++i) {
    out[i] = std::atomic_ref<unsigned char>(in[i]).load(std::memory_order_relaxed);
  }
}
inline void assign_from_shared(std::string& to, const char* from, std::size_t bytes) {
  to.resize(bytes);
  copy_from_shared(to.data(), from, bytes);
}
inline void copy_to_shared(void* to, const void* from, std::size_t bytes) noexcept {
  auto* out = static_cast<unsigned char*>(to);
  const auto* in = static_cast<const unsigned char*>(from);
  for (std::size_t i = 0; i < bytes; ++i) {
    std::atomic_ref<unsigned char>(out[i]).store(in[i], std::memory_order_relaxed);
  }
}
inline bool equals_shared(const void* shared, const void* own, std::size_t bytes) noexcept {
  auto* theirs = const_cast<unsigned char*>(static_cast<const unsigned char*>(shared));
  const auto* ours = static_cast<const unsigned char*>(own);
  for (std::size_t i = 0; i < bytes; ++i) {
    if (std::atomic_ref<unsigned char>(theirs[i]).load(std::memory_order_relaxed) != ours[i]) {
      return false;
    }
  }
  return true;
}

#endif

// Word i of what begins at `from`: once, whatever the compiler would prefer.
inline std::uint64_t load_word(const char* from, std::size_t i) noexcept {
  auto* words = reinterpret_cast<std::uint64_t*>(const_cast<char*>(from));
  return std::atomic_ref<std::uint64_t>(words[i]).load(std::memory_order_relaxed);
}
inline void store_word(char* to, std::uint64_t word) noexcept {
  std::atomic_ref<std::uint64_t>(*reinterpret_cast<std::uint64_t*>(to))
      .store(word, std::memory_order_relaxed);
}
inline EntryHeader load_header(const char* from) noexcept {
  return {load_word(from, 0), load_word(from, 1), load_word(from, 2), load_word(from, 3)};
}

// Between copying an entry and looking again at the version that protects it.
// acquire: pairs with fence_before_bytes(). Who saw new bytes sees the version that rose before.
inline std::uint32_t version_after_copy(const std::atomic<std::uint32_t>& version) noexcept {
  std::atomic_thread_fence(std::memory_order_acquire);
  return version.load(std::memory_order_relaxed);
}
// Between the versions that were raised and the first byte of what is written in freed space.
inline void fence_before_bytes() noexcept { std::atomic_thread_fence(std::memory_order_release); }

// Bit i: slot i, shifted right by `shift`, is `wanted`. For readers a hint: a slot is loaded again
// before it is followed. Certain for the lock's holder.
template <int shift>
inline std::uint32_t slots_equal(const Bucket& bucket, std::uint32_t wanted) noexcept {
#if defined(__SSE2__) && !defined(__SANITIZE_THREAD__)
  // The third load takes the first policy words with it; its upper half is not looked at.
  const auto* at = reinterpret_cast<const __m128i*>(&bucket);
  const __m128i four = _mm_set1_epi32(static_cast<int>(wanted));
  const auto equal = [&](int number) {
    const __m128i slots = _mm_srli_epi32(_mm_load_si128(at + number), shift);
    return static_cast<std::uint32_t>(
        _mm_movemask_ps(_mm_castsi128_ps(_mm_cmpeq_epi32(slots, four))));
  };
  return equal(0) | equal(1) << 4 | (equal(2) & 3) << 8;
#else
  std::uint32_t found = 0;
  for (std::size_t i = 0; i < kSlotsPerBucket; ++i) {
    const bool same = bucket.slots[i].load(std::memory_order_relaxed) >> shift == wanted;
    found |= static_cast<std::uint32_t>(same) << i;
  }
  return found;
#endif
}
inline std::uint32_t slots_with_tag(const Bucket& bucket, std::uint64_t hash) noexcept {
  return slots_equal<kGranuleBits>(bucket, tag_of(hash) >> kGranuleBits);
}
inline std::uint32_t empty_slots(const Bucket& bucket) noexcept {
  return slots_equal<0>(bucket, 0);
}

}  // namespace larder::shm
