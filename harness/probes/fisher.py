"""Fisher information of the prediction about single weights, from fewer backward passes than it has terms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.probes.base import Subject
from harness.probes.jacobian import WeightJacobian, recordings

SMOOTHING = 0.05


def multinomial_root(probabilities: np.ndarray) -> np.ndarray:
    """Lower triangular L (..., K, K) with L L^T = diag(s) - s s^T, in closed form.

    With q_j = 1 - s_1 - … - s_j, L_jj = sqrt(s_j q_j / q_{j-1}) and L_ij = -(s_i / q_j) L_jj for i > j: no
    Cholesky of a matrix that is singular by construction (VKDNW, supplementary).
    """
    s = probabilities
    rest = np.clip(1 - np.cumsum(s, axis=-1), 0, None)
    before = np.concatenate([np.ones_like(rest[..., :1]), rest[..., :-1]], axis=-1)
    rest[..., -1] = 0.0
    diagonal = np.sqrt(s * rest / before)
    scale = np.divide(diagonal, rest, out=np.zeros_like(rest), where=rest > 0)
    lower = np.tril(-s[..., :, None] * scale[..., None, :], k=-1)
    return lower + diagonal[..., None, :] * np.eye(s.shape[-1])


def fisher_factor(probabilities: np.ndarray, variant: str) -> np.ndarray:
    """R (..., K, K) such that an image with the Jacobian J adds (R J)^T (R J) to the Fisher information.

    s is the softmax smoothed by 0.05 towards uniform, L the root of diag(s) - s s^T. `paper`: R = L^T, so that the
    image adds J^T (diag(s) - s s^T) J. `repo`: R = L, as the authors' code computes.
    """
    smooth = (1 - SMOOTHING) * probabilities + SMOOTHING / probabilities.shape[-1]
    root = multinomial_root(smooth)
    return root if variant == "repo" else np.swapaxes(root, -1, -2)


@dataclass(frozen=True)
class FisherSketch(WeightJacobian):
    """`rows` random rows an image, whose products sum up to the Fisher information in expectation.

    An image with the Jacobian J adds (R J)^T (R J) (`fisher_factor`). With a random r x K matrix Q, E[Q^T Q] = 1,
    (Q R J)^T (Q R J) is the same in expectation, and Q R J takes r backward passes, whatever K: the gradient at the
    logits is then another one for each image. Observable `rows` (B, r, p) float64. The rows of all images' Q are those
    of random orthogonal K x K matrices one after the other, times sqrt(K / r): drawn without replacement, as it were,
    so that what one image's rows miss the next one's see. Draws depend on (architecture, seed) alone.

    Where the whole Jacobian takes no more passes than `rows`, it is what is read: the information is exact then.
    """

    tensors: int = 128
    rows: int = 16
    variant: str = "paper"

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        import torch

        found: list[torch.Tensor] = []
        with recordings(subject, self, self.tensors) as recorded:
            for part in recorded:
                probabilities = part.logits.detach().double().softmax(dim=1).cpu().numpy()
                # One image's at a time: those of a thousand classes have a million entries.
                factors = (torch.from_numpy(fisher_factor(one, self.variant)) for one in probabilities)
                if part.fewest_rows <= self.rows:
                    (jacobian,) = part.jacobians([self.tensors])
                    pairs = zip(factors, jacobian.cpu(), strict=True)
                    found.append(torch.stack([factor @ one for factor, one in pairs]))
                    continue
                if not found:
                    directions = self._directions(subject, probabilities.shape[1])
                begin = sum(map(len, found))
                pairs = zip(directions[begin : begin + len(probabilities)], factors, strict=True)
                cotangents = torch.stack([rows @ factor for rows, factor in pairs])
                found.append(part.products(cotangents.to(part.logits.device)).cpu())
        return {"rows": torch.cat(found).numpy()}

    def _directions(self, subject: Subject, classes: int) -> Any:
        """Q of each image, (B, r, K) float64."""
        import torch

        total = self.batch_size * self.rows
        generator = subject.generator("fisher sketch", self.rows)
        size = (-(-total // classes), classes, classes)
        bases, _ = torch.linalg.qr(torch.randn(size, generator=generator, dtype=torch.float64))
        columns = bases.mT.flatten(0, 1)  # whose signs, the algorithm's choice, do not matter: in rows they would
        rows = columns[:total] * (classes / self.rows) ** 0.5
        return rows.view(self.batch_size, self.rows, classes)
