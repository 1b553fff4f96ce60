"""What simple models reach on the test images that the examples report on: the values a paper's model must beat.

    python benchmarks/baselines.py [--mnist] [--root FOLDER]

Prints the digits' values, and with --mnist MNIST's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import multivariate_normal

from micrognm import data
from micrognm.metrics import bits_per_dimension


@dataclass
class Settings:
    mnist: bool = False
    """also MNIST's independent Bernoulli"""
    root: Path | None = None
    """where MNIST is"""


def main(settings: Settings) -> None:
    digits = data.digits()
    train, test = (np.concatenate([s.images for s in splits])[..., 0].reshape(-1, 64) for splits in (
        (digits.train, digits.valid), (digits.test,)
    ))  # fmt: skip
    print(f"digits-binary independent Bernoulli {independent(train >= 8, test >= 8):.2f} nats")
    print(f"digits-binary FVSBN (64 logistic regressions) {fvsbn(train >= 8, test >= 8):.2f} nats")
    print(f"digits-17 histogram of each pixel {bits_per_dimension(histograms(train, test, 17), 64):.3f} bits/dim")
    print(
        f"digits-17 linear regression on earlier pixels {bits_per_dimension(linear(train, test, 17), 64):.3f} bits/dim"
    )
    nats = gaussian(train, test, 17, np.random.default_rng(0))
    print(f"digits-17-dequantised Gaussian of the logits {bits_per_dimension(nats, 64):.3f} bits/dim")
    if settings.mnist:
        mnist = data.mnist(settings.root)
        train = mnist.train.images.reshape(-1, 784) / 255
        test = data.dynamic(mnist.test.images, 256, np.random.default_rng(0)).reshape(-1, 784)
        print(f"mnist-dynamic independent Bernoulli {independent(train, test):.1f} nats")


def independent(train: np.ndarray, test: np.ndarray) -> float:
    """Each pixel on with its own frequency, Laplace-smoothed."""
    p = (train.sum(0) + 1) / (len(train) + 2)
    return float(-(test * np.log(p) + (1 - test) * np.log(1 - p)).sum(1).mean())


def fvsbn(train: np.ndarray, test: np.ndarray) -> float:
    """A fully visible sigmoid belief network: each pixel a logistic regression on those before it, row by row."""
    from sklearn.linear_model import LogisticRegression

    nats = 0.0
    for d in range(train.shape[1]):
        p = np.full(len(test), (train[:, d].sum() + 1) / (len(train) + 2))
        if d > 0 and 0 < train[:, d].sum() < len(train):
            model = LogisticRegression(C=1.0, max_iter=1000).fit(train[:, :d], train[:, d])
            p = model.predict_proba(test[:, :d])[:, 1]
        nats -= np.log(np.where(test[:, d], p, 1 - p)).mean()
    return float(nats)


def histograms(train: np.ndarray, test: np.ndarray, levels: int) -> float:
    """Each pixel with its own histogram of levels, Laplace-smoothed."""
    counts = np.stack([np.bincount(train[:, d], minlength=levels) + 1 for d in range(train.shape[1])])
    log_p = np.log(counts / counts.sum(1, keepdims=True))
    return float(-log_p[np.arange(train.shape[1]), test].sum(1).mean())


def linear(train: np.ndarray, test: np.ndarray, levels: int) -> float:
    """Each pixel a discretised logistic around a ridge regression on those before it, with its own scale."""
    nats = 0.0
    for d in range(train.shape[1]):
        X, Z = (np.hstack([x[:, :d] / levels, np.ones((len(x), 1))]) for x in (train, test))
        w = np.linalg.solve(X.T @ X + 0.3 * np.eye(d + 1), X.T @ train[:, d])

        def cost(scale, mean, y):
            s = np.exp(scale[0])
            high = np.where(y == levels - 1, 1.0, expit((y + 0.5 - mean) / s))
            low = np.where(y == 0, 0.0, expit((y - 0.5 - mean) / s))
            return -np.log(np.maximum(high - low, 1e-6)).mean()

        best = minimize(cost, [0.0], args=(X @ w, train[:, d]), method="Nelder-Mead")
        nats += cost(best.x, Z @ w, test[:, d])
    return float(nats)


def gaussian(train: np.ndarray, test: np.ndarray, levels: int, rng: np.random.Generator, a: float = 0.05) -> float:
    """One Gaussian with full covariance of logit(a + (1 - 2a) x), for dequantised pixels x of [0, 1]."""

    def logits(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        p = a + (1 - 2 * a) * data.dequantise(images, levels, rng) / levels
        return np.log(p / (1 - p)), (np.log((1 - 2 * a) / levels) - np.log(p) - np.log(1 - p)).sum(1)

    known, _ = logits(train.repeat(10, axis=0))  # ten noises an image
    y, logdet = logits(test)
    return float(-(multivariate_normal(known.mean(0), np.cov(known.T)).logpdf(y) + logdet).mean())


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
