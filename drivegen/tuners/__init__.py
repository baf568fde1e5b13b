"""drivegen's own tuners: LoRA and its kin, words."""
