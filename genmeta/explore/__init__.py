"""Looking into a trained generator's latent space: clusters, maps, lines, directions."""
