"""How good a model is, in the units of the field."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


def bits_per_dimension(nats: float, dimensions: int) -> float:
    """A discrete image's negative log-likelihood in nats, as bits for each dimension (pixels times channels)."""
    return nats / (dimensions * math.log(2))


def active_units(means: NDArray[np.floating], threshold: float = 0.01) -> NDArray[np.bool_]:
    """Which latent units say something of x: [d] from their posterior means E_q(z | x)[z] of many x, [N, d].

    A unit is active where that mean varies over x by more than the threshold (Burda et al. 2015, section 5.2): the
    variance of the mean and not of a draw, which would be 1 where q is the prior.
    """
    if means.ndim != 2 or len(means) < 2:
        raise ValueError(f"active_units: means must be [N, d] of 2 or more images, got {list(means.shape)}")
    return means.var(axis=0) > threshold


def linear_classifier(images: NDArray[np.floating], labels: NDArray[np.integer]) -> Any:
    """Logistic regression on the pixels of images [N, ...] of 0 to 1: scikit-learn's estimator, to be given [M, ...].

    Its penalty is scikit-learn's, of weight 1.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    return make_pipeline(FunctionTransformer(_flat), LogisticRegression(max_iter=1000)).fit(images, labels)


def _flat(images: NDArray[Any]) -> NDArray[Any]:
    return images.reshape(len(images), -1)


def classification_accuracy_score(
    samples: NDArray[np.floating],
    asked: NDArray[np.integer],
    images: NDArray[np.floating],
    labels: NDArray[np.integer],
) -> float:
    """The accuracy on real images of a classifier that saw samples of the asked classes alone (CAS).

    Ravuri and Vinyals 2019, as VQ-VAE-2 reports it, with `linear_classifier` in place of a ResNet-50: it says whether
    samples show their class in as many ways as real images do. Images of 0 to 1, [N, ...].
    """
    return float(linear_classifier(samples, asked).score(images, labels))


def most_recognised(
    classifier: Any, samples: NDArray[np.floating], asked: NDArray[np.integer], share: float
) -> NDArray[np.intp]:
    """Which samples to keep: of each asked class this share, those of which the classifier is surest that they are it.

    VQ-VAE-2's rejection sampling: the smaller the share, the better samples look and the less they vary. classifier: an
    estimator of scikit-learn with predict_proba. Returns indices in rising order, of each class one or more.
    """
    if not 0 < share <= 1:
        raise ValueError(f"most_recognised: share must lie in (0, 1], got {share}")
    unknown = np.setdiff1d(asked, classifier.classes_)
    if len(unknown):
        raise ValueError(f"most_recognised: the classifier never saw the classes {unknown.tolist()}")
    columns = np.searchsorted(classifier.classes_, asked)
    sure = classifier.predict_proba(samples)[np.arange(len(asked)), columns]
    kept = []
    for c in np.unique(asked):
        of_class = np.flatnonzero(asked == c)
        best = np.argsort(-sure[of_class], kind="stable")[: max(1, round(share * len(of_class)))]
        kept.append(of_class[best])
    return np.sort(np.concatenate(kept))
