"""The names of the contract's hooks; in a file of its own, which the listing of plugins reads without importing."""

HOOKS = ("prepare", "collate", "attach", "encode", "precompute", "augment", "residuals", "weight", "loss", "guide")
"""The hooks a plugin may implement, in the order of their use."""
