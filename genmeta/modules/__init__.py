"""Training: the LightningModules, their data and their pictures."""
