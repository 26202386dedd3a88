"""Kaito fine-tunes a language model and serves it, from one YAML file."""
