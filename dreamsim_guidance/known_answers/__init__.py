"""Guidance where the right answer is known: Gaussian mixtures, their posteriors in closed form, and digits.

>>> prior = random_mixture(12, (0.3, 0.7))
>>> energy = LinearEnergy(torch.ones(12))
>>> pipe, arguments = exact_pipeline(prior, (3, 2, 2), "dpm++2m")
>>> with guide(pipe, partial(image_loss, energy), DPS(1.0, cap=None)), final_state(pipe.scheduler) as states:
...     pipe(batch_size=1000, num_inference_steps=40, **arguments)
>>> errors(states[0].flatten(1), energy.posterior(prior))

The public names are listed in `__init__.pyi` and imported on first use, so that recipes are listed without torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
