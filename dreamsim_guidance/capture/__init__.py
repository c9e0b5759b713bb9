"""Functions of tensors, run as CUDA graphs: recorded once for each kind of input, replayed afterwards in one launch.

    graphs, watch = Graphs(), lambda: Watch([module])
    (y,) = graphs(lambda x: (module(x),), (x,), watch)     # any function of tensors that returns tensors
    values = values_of(graphs, function, images, watch)    # one value per image, differentiable in the images

On a GPU, a step of a perceptual loss on a few images launches hundreds of kernels, and launching them takes longer than running
them. A graph launches all of them at once. What a graph needs is provided here:

- Inputs are copied into buffers of the graph, and results are copied out, so that nothing aliases the caller's tensors.
- A `Watch` notices weights that were replaced or moved, hooks, and weights that are being trained. Replaced weights lead to a
  new recording; with hooks or training the function is run as it is. All memory that a graph reads is kept alive.
- Before a function is recorded it is run twice, the second time under a guard that finds whatever would read values back to the
  host. The first replay is compared with the function's own result. If either fails, or the recording, the function is run as
  it is from then on, and a line at warning level says why, once for each reason.
- Replays on one device follow one another, whatever thread or stream asks for them, so that graphs share one memory pool.

A graph keeps the memory of its intermediate results, about as much as one ordinary call needs at its peak, until `release`.
"""

from dreamsim_guidance.capture.graphs import Graphs as Graphs
from dreamsim_guidance.capture.graphs import settings as settings
from dreamsim_guidance.capture.recorder import CudaRecorder as CudaRecorder
from dreamsim_guidance.capture.recorder import Recorder as Recorder
from dreamsim_guidance.capture.values import values_of as values_of
from dreamsim_guidance.capture.watch import Watch as Watch
