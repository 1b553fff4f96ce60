"""A model whose likelihood is known: linear maps between normal variables, and a q that is the posterior, or is not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import multivariate_normal

from micrognm import Tensor
from micrognm.models.latent.gaussian import Gaussian, LatentGaussianModel
from micrognm.nn import init


def gaussian(matrix, bias, std) -> Gaussian:
    """N(x @ matrix + bias, diag(std)^2), in float64."""
    layer = Gaussian(len(matrix), [], matrix.shape[1], np.random.default_rng(0), init.zeros())
    layer.cast("float64")
    layer.mean.weight.data[...] = matrix
    layer.mean.bias.data[...] = bias
    layer.log_std.bias.data[...] = np.log(std)
    return layer


@dataclass
class Known:
    """A model, images x [N, 3], their log p(x) [N], and q's posterior of z_1: means [N, d] and deviations [d]."""

    model: LatentGaussianModel
    x: Tensor
    log_p: np.ndarray
    mean: np.ndarray
    std: np.ndarray


def one_layer(kind, rng, n=5) -> Known:
    """z of two dimensions, x of three. The rows of W are orthogonal under the noise, so the posterior is diagonal."""
    b, noise = rng.standard_normal(3), np.array([0.5, 0.8, 1.2])
    rows = np.linalg.qr(rng.standard_normal((3, 2)))[0].T * np.array([[1.5], [0.7]])
    W = rows * noise
    variance = 1 / (1 + (rows**2).sum(axis=1))
    A = (W / noise**2).T * variance
    x = rng.multivariate_normal(b, W.T @ W + np.diag(noise**2), size=n)
    model = build(kind, [gaussian(A, -b @ A, np.sqrt(variance))], [], gaussian(W, b, noise))
    log_p = multivariate_normal(b, W.T @ W + np.diag(noise**2)).logpdf(x)
    return Known(model, Tensor(x), log_p, (x - b) @ A, np.sqrt(variance))


def two_layers(kind, rng, n=5) -> Known:
    """z_2 and z_1 of one dimension, x of three."""
    b, noise, W = rng.standard_normal(3), np.array([0.5, 0.8, 1.2]), rng.standard_normal((1, 3))
    v, c, tau = 0.9, 0.4, 0.6
    prior = v**2 + tau**2  # the variance of z_1
    variance = 1 / (1 / prior + (W**2 / noise**2).sum())
    A = (W / noise**2).T * variance
    first = gaussian(A, c * variance / prior - b @ A, np.sqrt(variance))
    above = 1 / (1 + v**2 / tau**2)
    B = v / tau**2 * above
    second = gaussian(np.array([[B]]), -c * B, np.sqrt(above))
    covariance = prior * W.T @ W + np.diag(noise**2)
    x = rng.multivariate_normal(b + c * W[0], covariance, size=n)
    model = build(kind, [first, second], [gaussian(np.array([[v]]), c, tau)], gaussian(W, b, noise))
    log_p = multivariate_normal(b + c * W[0], covariance).logpdf(x)
    return Known(model, Tensor(x), log_p, (x - b) @ A + c * variance / prior, np.sqrt(np.array([variance])))


def build(kind, q, p, decoder) -> LatentGaussianModel:
    model = kind.__new__(kind)
    LatentGaussianModel.__init__(model, (3,), q, p, decoder)
    return model


def spoil(model) -> None:
    """Move q away from the posterior: the bounds are then strict."""
    for layer in model.q:
        layer.mean.bias.data += 0.3
        layer.log_std.bias.data += 0.4


def repeated(x, times) -> Tensor:
    """Each image so many times, in a row."""
    return Tensor(x.numpy().repeat(times, axis=0))


def average(values, n):
    """The mean [n] of many values of each of n, and its standard error."""
    groups = values.numpy().reshape(n, -1)
    return groups.mean(axis=1), groups.std(axis=1, ddof=1) / np.sqrt(groups.shape[1])
