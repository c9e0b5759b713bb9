"""Embedding on a cluster: the job of `retrieval.embedding` on the workers of Ray, in five parts.

`cluster`: connecting to Ray. `claims`: which piece of work embeds a content. `stages`: what runs on the workers. `one_pass`:
pieces to the workers, and their fragments into the table. `job`: the passes, from sources to an index.
"""
