"""Log-likelihoods under logits."""

from __future__ import annotations

from micrognm.formula import formula, softplus, where


@formula
def bernoulli_log_prob(x, logits):
    """x log p + (1 - x) log(1 - p) where p = sigmoid(logits), elementwise and without overflow; shapes broadcast."""
    # x logits - softplus(logits), with log p taken out above 0: exact where the log-probability is small.
    below = logits < 0
    return where(below, x, x - 1) * logits - softplus(where(below, logits, -logits))
