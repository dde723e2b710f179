"""Names of the alternatives that both the settings (without torch) and the functions know."""

KL_KINDS = ("k1", "abs", "k2", "k3", "k3+")
AGGREGATIONS = ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum-norm")
ADVANTAGES = ("gae", "grpo", "rloo", "reinforce")
