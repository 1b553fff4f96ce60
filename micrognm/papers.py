"""The 31 papers of the project and where each stands: the one place the table in README.md comes from."""

from __future__ import annotations

from dataclasses import dataclass

CHAPTERS = ("autoregressive", "flow", "latent", "implicit", "selfsupervised", "semisupervised")


@dataclass(frozen=True)
class Paper:
    """One paper. `year` and `arxiv` are of its first version on arXiv; None: it is not there, or the year is unknown.

    `models` and `examples` are paths from the root of the repository; `result` is the best value measured with these.
    """

    chapter: str
    name: str
    title: str
    year: int | None
    arxiv: str | None
    models: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()
    result: str | None = None

    @property
    def status(self) -> str:
        """ "done" where model and training script are here, "begun" where the model alone is, else "planned"."""
        return "done" if self.examples else "begun" if self.models else "planned"


def _models(chapter: str, *names: str) -> tuple[str, ...]:
    return tuple(f"micrognm/models/{chapter}/{name}.py" for name in names)


def _examples(chapter: str, *names: str) -> tuple[str, ...]:
    return tuple(f"examples/{chapter}/{name}.py" for name in names)


PAPERS = (
    Paper(
        "autoregressive",
        "MADE",
        "MADE: Masked Autoencoder for Distribution Estimation",
        2015,
        "1502.03509",
        models=_models("autoregressive", "made"),
        examples=_examples("autoregressive", "made"),
        result="MNIST, dynamic binarisation: 91.84 nats",
    ),
    Paper(
        "autoregressive",
        "PixelRNN",
        "Pixel Recurrent Neural Networks",
        2016,
        "1601.06759",
        models=_models("autoregressive", "pixel_rnn", "pixelcnn", "multi_scale"),
        examples=_examples("autoregressive", "pixel_rnn", "pixelcnn", "multi_scale"),
        result="digits, 17 levels: 1.787 bits/dim (Diagonal BiLSTM)",
    ),
    Paper(
        "autoregressive",
        "Gated PixelCNN",
        "Conditional Image Generation with PixelCNN Decoders",
        2016,
        "1606.05328",
        models=_models("autoregressive", "gated_pixelcnn", "pixelcnn_autoencoder"),
        examples=_examples("autoregressive", "gated_pixelcnn", "pixelcnn_autoencoder"),
        result="MNIST, dynamic binarisation: 83.67 nats",
    ),
    Paper(
        "autoregressive",
        "PixelSNAIL",
        "PixelSNAIL: An Improved Autoregressive Generative Model",
        2017,
        "1712.09763",
        models=_models("autoregressive", "pixelsnail"),
        examples=_examples("autoregressive", "pixelsnail"),
        result="digits, 17 levels: 1.852 bits/dim",
    ),
    Paper(
        "flow",
        "Real NVP",
        "Density estimation using Real NVP",
        2016,
        "1605.08803",
        models=_models("flow", "real_nvp"),
        examples=_examples("flow", "real_nvp"),
        result="MNIST, dequantised: 1.384 bits/dim",
    ),
    Paper(
        "flow",
        "Glow",
        "Glow: Generative Flow with Invertible 1x1 Convolutions",
        2018,
        "1807.03039",
        models=_models("flow", "glow"),
        examples=_examples("flow", "glow"),
        result="MNIST, dequantised: 1.444 bits/dim",
    ),
    Paper(
        "latent",
        "VAE",
        "Auto-Encoding Variational Bayes",
        2013,
        "1312.6114",
        models=_models("latent", "vae", "posterior", "full_vb"),
        examples=_examples("latent", "vae"),
        result="MNIST, dynamic binarisation: 90.79 nats",
    ),
    Paper(
        "latent",
        "IWAE",
        "Importance Weighted Autoencoders",
        2015,
        "1509.00519",
        models=_models("latent", "iwae"),
        examples=_examples("latent", "iwae"),
        result="MNIST, dynamic binarisation: 88.29 nats (k = 5)",
    ),
    Paper(
        "latent",
        "VQ-VAE",
        "Neural Discrete Representation Learning",
        2017,
        "1711.00937",
        models=_models("latent", "vq_vae"),
        examples=_examples("latent", "vq_vae"),
        result="MNIST, 7x7 codes: squared error 0.0030, perplexity 88 of 128",
    ),
    Paper(
        "latent",
        "VQ-VAE-2",
        "Generating Diverse High-Fidelity Images with VQ-VAE-2",
        2019,
        "1906.00446",
        models=_models("latent", "vq_vae_2"),
        examples=_examples("latent", "vq_vae_2"),
        result="digits: CAS 93.3 %",
    ),
    Paper("implicit", "GAN", "Generative Adversarial Networks", 2014, "1406.2661"),
    Paper(
        "implicit",
        "DCGAN",
        "Unsupervised Representation Learning with Deep Convolutional Generative Adversarial Networks",
        2015,
        "1511.06434",
    ),
    Paper("implicit", "Improved GAN", "Improved Techniques for Training GANs", 2016, "1606.03498"),
    Paper(
        "implicit",
        "ProGAN",
        "Progressive Growing of GANs for Improved Quality, Stability, and Variation",
        2017,
        "1710.10196",
    ),
    Paper("implicit", "SAGAN", "Self-Attention Generative Adversarial Networks", 2018, "1805.08318"),
    Paper(
        "implicit",
        "StyleGAN",
        "A Style-Based Generator Architecture for Generative Adversarial Networks",
        2018,
        "1812.04948",
    ),
    Paper(
        "implicit",
        "Energy-based models and saddle points",
        "Notes on GANs, Energy-Based Models, and Saddle Points",
        None,
        None,
    ),
    Paper(
        "implicit",
        "DragGAN",
        "Drag Your GAN: Interactive Point-based Manipulation on the Generative Image Manifold",
        2023,
        "2305.10973",
    ),
    Paper("selfsupervised", "Context Encoders", "Context Encoders: Feature Learning by Inpainting", 2016, "1604.07379"),
    Paper(
        "selfsupervised",
        "Split-Brain",
        "Split-Brain Autoencoders: Unsupervised Learning by Cross-Channel Prediction",
        2016,
        "1611.09842",
    ),
    Paper("selfsupervised", "Tracking by colorization", "Tracking Emerges by Colorizing Videos", 2018, "1806.09594"),
    Paper(
        "selfsupervised", "word2vec", "Efficient Estimation of Word Representations in Vector Space", 2013, "1301.3781"
    ),
    Paper("selfsupervised", "CPC", "Representation Learning with Contrastive Predictive Coding", 2018, "1807.03748"),
    Paper(
        "selfsupervised",
        "MoCo",
        "Momentum Contrast for Unsupervised Visual Representation Learning",
        2019,
        "1911.05722",
    ),
    Paper(
        "selfsupervised",
        "SimCLR",
        "A Simple Framework for Contrastive Learning of Visual Representations",
        2020,
        "2002.05709",
    ),
    Paper(
        "selfsupervised",
        "CLIP",
        "Learning Transferable Visual Models From Natural Language Supervision",
        2021,
        "2103.00020",
    ),
    Paper("selfsupervised", "MAE", "Masked Autoencoders Are Scalable Vision Learners", 2021, "2111.06377"),
    Paper(
        "semisupervised",
        "Pseudo-Label",
        "Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method for Deep Neural Networks",
        2013,
        None,
    ),
    Paper(
        "semisupervised", "Temporal Ensembling", "Temporal Ensembling for Semi-Supervised Learning", 2016, "1610.02242"
    ),
    Paper(
        "semisupervised",
        "Mean Teacher",
        "Mean teachers are better role models: "
        "Weight-averaged consistency targets improve semi-supervised deep learning results",
        2017,
        "1703.01780",
    ),
    Paper(
        "semisupervised",
        "Noisy Student",
        "Self-training with Noisy Student improves ImageNet classification",
        2019,
        "1911.04252",
    ),
)

HEADER = ("chapter", "paper", "year", "arXiv", "model", "status", "best result")


def table() -> str:
    """The papers as aligned columns for a terminal."""
    rows = [HEADER, *(_cells(paper, paper.name, paper.arxiv, " ".join(map(_file, paper.models))) for paper in PAPERS)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def markdown() -> str:
    """The papers as a Markdown table with full titles and with links that work in the repository's README.md."""
    rows = [HEADER, ("---",) * len(HEADER)]
    for paper in PAPERS:
        title = paper.title if paper.title.startswith(paper.name) else f"{paper.name}: {paper.title}"
        arxiv = paper.arxiv and f"[{paper.arxiv}](https://arxiv.org/abs/{paper.arxiv})"
        model = _links(paper.models)
        if paper.examples:
            model += f"; scripts: {_links(paper.examples)}"
        rows.append(_cells(paper, title, arxiv, model))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _links(paths: tuple[str, ...]) -> str:
    return ", ".join(f"[{_file(path)}]({path})" for path in paths)


def _file(path: str) -> str:
    return path.rpartition("/")[2]


def _cells(paper: Paper, name: str, arxiv: str | None, model: str) -> tuple[str, ...]:
    """One row of a table under HEADER."""
    year = paper.year and str(paper.year)
    return tuple(cell or "—" for cell in (paper.chapter, name, year, arxiv, model, paper.status, paper.result))
