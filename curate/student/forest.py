"""Trees of scikit-learn as plain arrays: they are stored without pickles and walked with numpy alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FIELDS = ("feature", "threshold", "left", "right", "value", "root")
LEAF = -1


@dataclass(frozen=True)
class Forest:
    """Nodes of all trees in one table; `root` (trees,) is where each begins, `feature` is LEAF at leaves."""

    feature: npt.NDArray[np.int16]
    threshold: npt.NDArray[np.float32]
    left: npt.NDArray[np.int32]
    right: npt.NDArray[np.int32]
    value: npt.NDArray[np.float32]
    root: npt.NDArray[np.int32]

    @classmethod
    def of(cls, fitted: Any) -> "Forest":
        """The trees of a fitted two-class ExtraTreesClassifier or RandomForestClassifier; leaves hold the share of the second class."""
        pieces: dict[str, list[Any]] = {name: [] for name in FIELDS}
        offset = 0
        for estimator in fitted.estimators_:
            tree = estimator.tree_
            leaf = tree.children_left < 0
            counts = tree.value[:, 0, :]
            pieces["feature"].append(np.where(leaf, LEAF, tree.feature))
            pieces["threshold"].append(tree.threshold)
            pieces["left"].append(np.where(leaf, 0, tree.children_left + offset))
            pieces["right"].append(np.where(leaf, 0, tree.children_right + offset))
            pieces["value"].append(counts[:, 1] / counts.sum(axis=1) if counts.shape[1] > 1 else np.zeros(len(counts)))
            pieces["root"].append([offset])
            offset += tree.node_count
        return cls.from_arrays({name: np.concatenate(pieces[name]) for name in FIELDS})

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> "Forest":
        kinds = {"feature": np.int16, "threshold": np.float32, "value": np.float32}
        return cls(**{name: np.asarray(arrays[name], dtype=kinds.get(name, np.int32)) for name in FIELDS})

    def arrays(self) -> dict[str, Any]:
        """What `from_arrays` needs."""
        return {name: getattr(self, name) for name in FIELDS}

    def predict(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Mean of the leaves' values, (rows,) for `features` (rows, features)."""
        rows = np.arange(len(features))[:, None]
        node = np.broadcast_to(self.root, (len(features), len(self.root))).copy()
        while True:
            feature = self.feature[node]
            inner = feature != LEAF
            if not inner.any():
                return self.value[node].mean(axis=1, dtype=np.float64)
            go_left = features[rows, np.maximum(feature, 0)] <= self.threshold[node]
            node = np.where(inner, np.where(go_left, self.left[node], self.right[node]), node)
