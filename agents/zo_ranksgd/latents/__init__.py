"""Search of a generator's latents by rankings of its images."""
