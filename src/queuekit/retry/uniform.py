"""Chance that can be computed again."""

from __future__ import annotations

__all__ = ["uniform"]


def uniform(seed: str | int, job_id: str, attempt: int) -> float:
    """A number in [0, 1) that depends on nothing but the three: every engine and every worker gets the same one.

    It feeds the jitter of RetryPolicy.decide(u=...). The seeds 7 and "7" are one, as an environment knows only text.
    """
    import hashlib

    # NUL cannot stand in an id, so that ("a", "b1", 1) and ("ab", "1", 1) differ.
    digest = hashlib.blake2b(f"{seed}\0{job_id}\0{attempt}".encode(errors="surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)  # 53 bits: what a float holds exactly, so never 1.0
