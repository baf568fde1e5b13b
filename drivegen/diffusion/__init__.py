"""The noise schedule, shared by training and sampling."""
