"""Segment Anything backbones: checkpoints, image encoders, prompts and kept embeddings."""
