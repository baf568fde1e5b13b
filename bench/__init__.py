"""The laboratory: what only measurements and the making of the referee use; no part of the installed package."""
