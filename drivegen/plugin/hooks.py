"""The names of the contract's hooks; here, where they can be had without torch."""

HOOKS = ("prepare", "collate", "attach", "encode", "precompute", "residuals", "weight", "loss", "guide")
"""The hooks a plugin may implement, in the order of their use."""
