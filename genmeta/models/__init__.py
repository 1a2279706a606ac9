"""Networks and losses: generative models, backbones, and their checkpoints."""
