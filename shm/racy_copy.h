// Copies between private and shared memory that another process may be changing meanwhile.
//
// What was copied means nothing until the generation of its page was found unchanged afterwards.
// The language calls such a copy a data race; relaxed word-by-word copies are the legal form and
// cost two to three times a memcpy at 1 KiB. On x86-64 and arm64, where plain loads and stores of
// up to a word never fault or invent values, memcpy between compiler barriers does the same at
// full speed. Elsewhere, and under ThreadSanitizer, the legal form.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace larder::shm {

#if (defined(__x86_64__) || defined(__aarch64__)) && !defined(__SANITIZE_THREAD__)

inline void copy_from_shared(void* to, const void* from, std::size_t bytes) noexcept {
  asm volatile("" ::: "memory");
  std::memcpy(to, from, bytes);
  asm volatile("" ::: "memory");
}
inline void copy_to_shared(void* to, const void* from, std::size_t bytes) noexcept {
  asm volatile("" ::: "memory");
  std::memcpy(to, from, bytes);
  asm volatile("" ::: "memory");
}
inline bool equals_shared(const void* shared, const void* own, std::size_t bytes) noexcept {
  asm volatile("" ::: "memory");
  return std::memcmp(shared, own, bytes) == 0;
}

#else

inline void copy_from_shared(void* to, const void* from, std::size_t bytes) noexcept {
  auto* out = static_cast<unsigned char*>(to);
  auto* in = const_cast<unsigned char*>(static_cast<const unsigned char*>(from));
  for (std::size_t i = 0; i < bytes; ++i) {
    out[i] = std::atomic_ref<unsigned char>(in[i]).load(std::memory_order_relaxed);
  }
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

// Between copying an entry and looking again at the words that protect it. ThreadSanitizer does
// not know fences, so that build orders through the word itself.
#if defined(__SANITIZE_THREAD__)
inline void fence_before_recheck(const std::atomic<std::uint32_t>& generation) noexcept {
  const_cast<std::atomic<std::uint32_t>&>(generation).fetch_add(0, std::memory_order_acq_rel);
}
inline void fence_before_bytes(std::atomic<std::uint32_t>& generation) noexcept {
  generation.fetch_add(0, std::memory_order_acq_rel);
}
#else
// acquire: pairs with fence_before_bytes(). Who saw new bytes sees the generation that came before.
inline void fence_before_recheck(const std::atomic<std::uint32_t>&) noexcept {
  std::atomic_thread_fence(std::memory_order_acquire);
}
inline void fence_before_bytes(std::atomic<std::uint32_t>&) noexcept {
  std::atomic_thread_fence(std::memory_order_release);
}
#endif

}  // namespace larder::shm
