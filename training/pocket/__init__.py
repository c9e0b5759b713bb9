"""Training of the pocket models: the ensemble, its adapter, the diffusion models, and the judge."""
