// What Hopper's engines (copies.cpp, wgmma.cpp) and the scheduler (emulator.cpp) know of each other.
//
// An engine's work is done as early or as late as the hardware may do it: at once in order 1; as late as the waits allow
// in order 0, when nobody can go on without it; by chance in order 2. What it will write is NaN until then.
#pragma once
#include <string>

#include "tests/emulator/block.h"

namespace emulator {

constexpr unsigned most_threads = 1024;

unsigned running();  // the thread
unsigned threads_of_block();
size_t dynamic_shared_bytes();
bool at_once();               // may the engine do now what it was just told?
uint32_t below(uint32_t n);   // some number: 0 in order 0, by chance in order 2
using Note = std::string (*)(const void* what);  // what is missing there, for the message of a deadlock
void wait_on(const void* what, const char* call, Note note, Place at);  // the running thread, until release(what)
void release(const void* what);
void want_hopper(const char* call, Place at);

// The engines' side. go_on does some work that is left, one piece; false: none can be done.
namespace copies {
void begin_block();
bool go_on();
void end_thread();
void end_block();
}  // namespace copies
namespace products {
void begin_block();
bool go_on();
void end_thread();
}  // namespace products

}  // namespace emulator
