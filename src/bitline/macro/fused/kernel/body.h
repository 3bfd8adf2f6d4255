// The body, compiled once for each instruction set: included again, with ISA (its name), TARGET (the compiler's attribute) and
// LEVEL (0 portable, 1 AVX2, 2 AVX-512 VNNI, 3 AMX) of each.
namespace {
namespace ISA {

#include "vectors.h"

#include "sums.h"

#include "digits.h"

#include "conversions.h"

#include "layer.h"

#include "words.h"

#include "pass.h"

} // namespace ISA
} // namespace
