"""Embedding collections of pictures into a table, and searching, comparing and counting with the embeddings."""
