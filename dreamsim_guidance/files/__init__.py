"""Files: atomic writing, archives, the cache folder, checksums, and resumable downloads."""
