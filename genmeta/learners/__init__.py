"""Learners: adaptation and classification, one file a family."""
