"""Linear models from W to attribute scores, and the directions that follow from them."""

from __future__ import annotations

import torch
from torch import Tensor

from oodgan.errors import UserError, unknown

MODELS = ("ridge", "logistic", "svm")


def fit_linear(codes: Tensor, scores: Tensor, model: str = "ridge", regulariser: float = 0.3) -> Tensor:
    """Fit scores (N,) as a linear function of codes w (N, 512); returns its gradient (512,).

    Args:
        model: ridge on the graded score; logistic or svm (squared hinge) on the score's sign about its midpoint.
        regulariser: in units of the mean variance of w (InterFaceGAN, section 3.1, has none: with a few thousand
            samples the small eigenvalues of w's covariance would carry noise).
    """
    if model not in MODELS:
        raise unknown("linear model", model, MODELS)
    centred = codes - codes.mean(0)
    covariance = centred.T @ centred / len(codes)
    strength = regulariser * covariance.diagonal().mean()
    if model == "ridge":
        target = (scores - scores.mean()) / scores.std().clamp(min=1e-9)
        damped = covariance + strength * torch.eye(codes.shape[1])
        return torch.linalg.solve(damped, centred.T @ target / len(codes))
    middle = (scores.amin() + scores.amax()) / 2 if len(scores.unique()) == 2 else scores.median()
    return _classify(centred, (scores > middle).float() * 2 - 1, model, float(strength))


def fit_codes(codes: Tensor, scores: Tensor) -> Tensor:
    """Fit codes w (N, 512) as a linear function of all scores (N, P); returns the change of w per score (P, 512).

    The reverse regression of `fit_linear`: not the direction in which a score grows fastest, but the mean difference of
    samples with a higher score. It stays near real samples, and has P regressors instead of 512.
    """
    centred, seen = codes - codes.mean(0), scores - scores.mean(0)
    covariance = seen.T @ seen
    return torch.linalg.solve(covariance + 0.02 * covariance.diagonal().diag(), seen.T @ centred)


def _classify(centred: Tensor, sign: Tensor, model: str, strength: float) -> Tensor:
    if len(sign.unique()) < 2:
        raise UserError("the probe gives every sample the same class: no direction separates them")
    normal = torch.zeros(centred.shape[1] + 1, requires_grad=True)
    balance = torch.where(sign > 0, 0.5 / (sign > 0).float().mean(), 0.5 / (sign < 0).float().mean())
    optimiser = torch.optim.LBFGS([normal], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        margin = sign * (centred @ normal[:-1] + normal[-1])
        error = torch.nn.functional.softplus(-margin) if model == "logistic" else (1 - margin).clamp(min=0).square()
        value = (balance * error).mean() + 0.5 * strength * normal[:-1].square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimiser.step(loss)
    return normal.detach()[:-1]


def conditional(normal: Tensor, others: Tensor) -> Tensor:
    """The unit direction (512,) nearest to `normal` along which the linear scores of `others` (K, 512) do not change.

    Conditional manipulation (InterFaceGAN, Shen et al. 2020, equation 9), for several conditions at once.

    Raises:
        UserError: no direction remains, because the attribute is a combination of the others.
    """
    if len(others):
        basis, triangle = torch.linalg.qr(others.T.double())
        independent = triangle.diagonal().abs() > 1e-6 * triangle.diagonal().abs().max()
        basis = basis[:, independent].to(normal)
        left = normal - basis @ (basis.T @ normal)
    else:
        left = normal
    if float(left.norm()) < 1e-3 * float(normal.norm()):
        raise UserError("the direction vanishes when made orthogonal to the others: name fewer of them")
    return left / left.norm()


def parse_layers(text: object, num_ws: int) -> list[int]:
    """Parse layer ranges: `4-7`, `0-3,8`, `5`, a list, or null for all. Both ends are included.

    >>> parse_layers("0-2,5", 16)
    [0, 1, 2, 5]

    Raises:
        UserError: an invalid range, or a layer that the generator does not have.
    """
    if text is None or text == "all":
        return list(range(num_ws))
    parts = [str(p) for p in text] if isinstance(text, list | tuple) else str(text).split(",")
    layers: set[int] = set()
    for part in parts:
        first, _, last = part.strip().partition("-")
        if not first.isdigit() or (last and not last.isdigit()):
            raise UserError(f"layers {text!r}: a range such as 4-7 or 0-3,8 expected")
        layers |= set(range(int(first), int(last or first) + 1))
    if not layers or max(layers) >= num_ws:
        raise UserError(f"layers {text!r}: this generator has layers 0 to {num_ws - 1}")
    return sorted(layers)


def spread(direction: Tensor, layers: list[int], num_ws: int) -> Tensor:
    """A direction of W (512,) -> (num_ws, 512): the same in every listed layer, zero elsewhere."""
    out = torch.zeros(num_ws, direction.shape[-1])
    out[layers] = direction
    return out
