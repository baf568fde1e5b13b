"""The networks that are hosted: how each family of them is loaded, called and saved."""
