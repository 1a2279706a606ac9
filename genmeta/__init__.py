"""Meta-learning with generative models: new knowledge from latent space.

Importing this package loads nothing else; its parts are imported by name.
"""

__version__ = "0.1.0"
