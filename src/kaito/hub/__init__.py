"""Base models of the Hugging Face hub or a folder: what they are (`resolve`), their weights (`pull`). No torch."""
