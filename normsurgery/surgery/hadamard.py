"""Hadamard matrices: H with entries ±1 and H Hᵀ = n I.

Sylvester's for powers of two; Paley's two constructions over a finite field for n = q + 1 (q ≡ 3
mod 4) and n = 2(q + 1) (q ≡ 1 mod 4), q a prime power; Kronecker products of those for the rest.
Every matrix here is normalised: its first column is all ones.
Source: R. E. A. C. Paley, "On Orthogonal Matrices", J. Math. Phys. 12 (1933).
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

_RADIX = 32  # powers of two go in steps of at most this: small enough a product to be fast
_LARGEST = 4096  # a Paley matrix is made whole; above this the construction is not tried


@lru_cache(maxsize=256)
def hadamard_factors(order: int) -> tuple[int, ...] | None:
    """Orders of small Hadamard matrices whose Kronecker product has this order, or None.

    Powers of two are at most 32 each; every other factor is Paley's. Of several products, the one
    with the least sum, which is the work that a transform takes per number.
    """
    if order < 1:
        return None
    odd = order & -order  # the largest power of two in it
    if odd == order:
        return _powers(order)
    found: list[tuple[int, ...]] = []
    for divisor in range(12, min(order, _LARGEST) + 1, 4):
        if order % divisor == 0 and divisor & (divisor - 1) and _field_of(divisor):
            rest = hadamard_factors(order // divisor)
            if rest is not None:
                found.append((divisor, *rest))
    return min(found, key=sum, default=None)


def _powers(order: int) -> tuple[int, ...]:
    exponent = order.bit_length() - 1
    most = _RADIX.bit_length() - 1
    parts = -(-exponent // most)
    return tuple(1 << (exponent // parts + (k < exponent % parts)) for k in range(parts))


@lru_cache(maxsize=32)
def hadamard(order: int) -> Tensor:
    """A normalised Hadamard matrix [order, order] in float64 of one factor's order.

    ValueError for an order that neither construction gives.
    """
    if order & (order - 1) == 0:
        matrix = torch.ones(1, 1, dtype=torch.float64)
        step = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
        while len(matrix) < order:
            matrix = torch.kron(matrix, step)
        return matrix
    field = _field_of(order)
    if field is None:
        raise ValueError(f"no construction for a Hadamard matrix of order {order}")
    made = _paley_one(field) if field + 1 == order else _paley_two(field)
    return made * made[:, :1]  # a row's sign is free: make the first column ones


def _paley_one(size: int) -> Tensor:
    """I + S, S skew with the Jacobsthal matrix inside."""
    matrix = torch.eye(size + 1, dtype=torch.float64)
    matrix[0, 1:] = 1
    matrix[1:, 0] = -1
    matrix[1:, 1:] += _jacobsthal(size)
    return matrix


def _paley_two(size: int) -> Tensor:
    """The symmetric conference matrix with each entry replaced by a 2 × 2 block."""
    conference = torch.zeros(size + 1, size + 1, dtype=torch.float64)
    conference[0, 1:] = conference[1:, 0] = 1
    conference[1:, 1:] = _jacobsthal(size)
    off = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    diagonal = torch.tensor([[1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
    identity = torch.eye(size + 1, dtype=torch.float64)
    return torch.kron(conference, off) + torch.kron(identity, diagonal)


def _field_of(order: int) -> int | None:
    """The size of the finite field from which Paley makes this order, if one does."""
    for size, remainder in ((order - 1, 3), (order // 2 - 1, 1)):
        if size > 1 and size % 4 == remainder and _prime_power(size):
            if size == order - 1 or order % 4 == 0:
                return size
    return None


def _prime_power(number: int) -> tuple[int, int] | None:
    """(p, n) with pⁿ = number, p prime; or None."""
    prime = next((p for p in range(2, int(number**0.5) + 1) if number % p == 0), number)
    exponent = 0
    while number % prime == 0:
        number, exponent = number // prime, exponent + 1
    return (prime, exponent) if number == 1 else None


def _jacobsthal(size: int) -> Tensor:
    """χ(a − b) for all elements a, b of the field: 1 for a square, −1 for none, 0 for zero."""
    found = _prime_power(size)
    assert found is not None
    prime, degree = found
    elements = _digits(torch.arange(size), prime, degree)
    character = torch.full((size,), -1.0, dtype=torch.float64)
    character[_numbers(_squares(elements, prime, degree), prime)] = 1
    character[0] = 0
    differences = (elements[:, None] - elements[None]) % prime
    return character[_numbers(differences, prime)]


def _digits(numbers: Tensor, prime: int, degree: int) -> Tensor:
    """Field elements as polynomials: [..., degree], the constant first."""
    return torch.stack([numbers // prime**k % prime for k in range(degree)], dim=-1)


def _numbers(elements: Tensor, prime: int) -> Tensor:
    weights = prime ** torch.arange(elements.shape[-1])
    return (elements * weights).sum(-1)


def _squares(elements: Tensor, prime: int, degree: int) -> Tensor:
    """The squares of polynomials [n, degree], reduced by an irreducible one."""
    product = torch.zeros(len(elements), 2 * degree - 1, dtype=torch.long)
    for left in range(degree):
        for right in range(degree):
            product[:, left + right] += elements[:, left] * elements[:, right]
    modulus = _irreducible(prime, degree)
    for power in range(2 * degree - 2, degree - 1, -1):
        lead = product[:, power : power + 1].clone()
        product[:, power - degree : power] -= lead * modulus
    return product[:, :degree] % prime


def _irreducible(prime: int, degree: int) -> Tensor:
    """The low coefficients [degree] of a monic irreducible polynomial over the integers mod p."""
    if degree == 1:
        return torch.zeros(1, dtype=torch.long)
    reducible = {
        tuple(_times(_monic(left, prime, low), _monic(right, prime, degree - low), prime))
        for low in range(1, degree // 2 + 1)
        for left in range(prime**low)
        for right in range(prime ** (degree - low))
    }
    found = next(
        polynomial
        for number in range(prime**degree)
        if tuple(polynomial := _monic(number, prime, degree)) not in reducible
    )
    return torch.tensor(found[:degree])


def _monic(number: int, prime: int, degree: int) -> list[int]:
    return [number // prime**k % prime for k in range(degree)] + [1]


def _times(left: list[int], right: list[int], prime: int) -> list[int]:
    product = [0] * (len(left) + len(right) - 1)
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            product[i + j] = (product[i + j] + a * b) % prime
    return product
