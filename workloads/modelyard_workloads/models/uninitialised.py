"""Networks around weights that were read: no random number is drawn first, nothing is copied.

Drawing the initial weights of a network takes longer than reading those of a file; on the meta device it is worse, as
PyTorch then imports its compiler (a second and more).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Network = TypeVar("Network", bound=nn.Module)

# The functions of nn.init that ask for an override themselves are called by it without one: they are here too.
_DRAWS = (Tensor.normal_, Tensor.uniform_, nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_)


class Uninitialised(TorchFunctionMode):
    """While it is entered, tensors that are to be filled with random numbers keep what their memory has.

    For the construction of a network all of whose weights are assigned afterwards.
    """

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Called by PyTorch for every function of it."""
        given = kwargs or {}
        if func in _DRAWS:
            return args[0] if args else given["tensor"]
        return func(*args, **given)


def with_weights(build: Callable[[], Network], weights: Mapping[str, Tensor]) -> Network:
    """The network that `build` makes, its parameters and persistent buffers being the given tensors themselves.

    A tensor of another datatype is converted to the network's. Raises RuntimeError for weights that do not fit.
    """
    with Uninitialised():
        network = build()
    own = network.state_dict()
    fitting = {name: value.to(own[name].dtype) if name in own else value for name, value in weights.items()}
    network.load_state_dict(fitting, assign=True)
    return network
