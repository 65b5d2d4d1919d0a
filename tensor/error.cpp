// Errors: the raise that headers and .cu files use.
#include "tensor/error.h"

namespace taper {

void raise(std::string message, std::source_location at) { throw Error(message, at); }

}  // namespace taper
