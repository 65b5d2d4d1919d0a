// Orthogonal: a matrix with orthonormal columns that span those of another (Q of its QR, R's diagonal positive).
#pragma once
#include <cstdint>
#include <vector>

namespace taper {

// a [rows,columns], of full rank: its columns become orthonormal, or, where rows < columns, its rows.
// By Cholesky of the Gram matrix, twice: nearly all of it products of matrices, so that large models start quickly.
void orthogonalize(std::vector<double>& a, int64_t rows, int64_t columns);

}  // namespace taper
