// Standard base64 (RFC 4648 section 4), as Go's encoding/json writes and reads byte slices.
//
// Pure functions: no state, nothing thrown but std::bad_alloc.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace larder::sync {

// Appends `bytes` with padding.
void append_base64(std::string& out, std::string_view bytes);

// The bytes of a padded text; line ends are skipped wherever they stand. None for anything else:
// missing padding, the URL alphabet, text after the padding.
std::optional<std::string> decode_base64(std::string_view text);
// The same into `out`; false: none, and it holds anything.
bool decode_base64(std::string_view text, std::string& out);

}  // namespace larder::sync
