"""The optimiser of an SAE in plain PyTorch."""

from collections.abc import Mapping

import torch

from helpers.kernels.types import Matrices, lowered

MOMENTS = "exp_avg", "exp_avg_sq"  # Adam's means of g and g^2


class Adam:
    """torch.optim.Adam that keeps decoder rows unit.

    ``parameters``: name -> tensor, changed in place. For those named in
    ``unit_rows`` each step is project -> step -> renormalise: the
    gradient's component along a row is removed before Adam sees it, and the
    row made unit after. ``low`` holds both ``Matrices`` in ``dtype``, up to
    date after each step (None in float32: no copy is needed).
    """

    def __init__(
        self,
        parameters: Mapping[str, torch.Tensor],
        betas: tuple[float, float] = (0.9, 0.999),
        dtype: torch.dtype = torch.float32,
        unit_rows: tuple[str, ...] = ("W_dec",),
    ):
        self.parameters, self.unit_rows = dict(parameters), unit_rows
        self.betas, self.steps = betas, 0
        kept = list(self.parameters.values())
        self.adam = torch.optim.Adam(kept, betas=betas, fused=True)
        for parameter in kept:
            state = self.adam.state[parameter]
            state["step"] = torch.zeros((), device=parameter.device)
            for name in MOMENTS:
                state[name] = torch.zeros_like(parameter.detach())
        self.low = None
        if dtype != torch.float32:
            self.low = lowered(self._matrices(), dtype)

    @torch.no_grad()
    def step(self, lr: float, gradients: Mapping | tuple) -> None:
        """Take one step; ``gradients`` has one tensor a parameter."""
        if isinstance(gradients, tuple):
            gradients = gradients._asdict()
        self._update(lr, gradients)
        self.steps += 1

    def moments(self, name: str) -> dict[str, torch.Tensor]:
        """``exp_avg`` and ``exp_avg_sq``, shaped as the parameter.

        Written in place to reset rows, as resampling does.
        """
        state = self.adam.state[self.parameters[name]]
        return {moment: state[moment] for moment in MOMENTS}

    @torch.no_grad()
    def refresh(self) -> None:
        """Renew ``low`` after someone else changed the parameters."""
        if self.low:
            for low, full in zip(self.low, self._matrices(), strict=True):
                low.copy_(full)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """What a checkpoint holds: resuming from it changes no bit."""
        state = {"step": torch.tensor(self.steps)}
        for name in self.parameters:
            for moment, value in self.moments(name).items():
                state[f"{moment}.{name}"] = value
        return state

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from ``state_dict``; the parameters are restored before."""
        self.steps = int(state["step"])
        for name in self.parameters:
            for moment, value in self.moments(name).items():
                value.copy_(state[f"{moment}.{name}"])
        self.refresh()

    def _matrices(self) -> Matrices:
        found = (self.parameters[name].detach() for name in Matrices._fields)
        return Matrices(*found)

    def _update(self, lr: float, gradients: Mapping) -> None:
        for name, parameter in self.parameters.items():
            parameter.grad = _laid_out_as(parameter, gradients[name])
            if name in self.unit_rows:
                along = torch.linalg.vecdot(parameter.grad, parameter)
                parameter.grad = parameter.grad.addcmul(
                    along[:, None], parameter, value=-1
                )
            self.adam.state[parameter]["step"].fill_(self.steps)
        self.adam.param_groups[0]["lr"] = lr
        self.adam.step()
        self.adam.zero_grad()
        for name in self.unit_rows:
            rows = self.parameters[name]
            rows.div_(torch.linalg.vector_norm(rows, dim=1)[:, None])
        self.refresh()


def _laid_out_as(like: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """The gradient with strides that the fused Adam reads correctly."""
    if gradient.stride() == like.stride():
        return gradient
    return torch.empty_like(like).copy_(gradient)
