"""The first stage: pictures to latents and back; plain, KL or vector-quantised, with perceptual and adversarial losses."""
