"""The learning rate along a training, against torch's own schedulers."""

from __future__ import annotations

import pytest
import torch

from fractionate.records import Training
from fractionate.training.schedule import learning_rate, make_optimizer, set_learning_rate


def test_cosine_agrees_with_torch() -> None:
    training = Training(steps=40, learning_rate=0.3)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40)
    for step in range(40):
        assert learning_rate(training, step, 40) == pytest.approx(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()


def test_warm_up_rises_linearly_then_the_schedule_starts_at_the_full_rate() -> None:
    training = Training(learning_rate=1.0, warmup_share=0.25)
    rates = [learning_rate(training, step, 20) for step in range(20)]
    assert rates[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert rates == [*rates[:6], *sorted(rates[6:], reverse=True)] and 0 < rates[-1] < 0.02
    constant = Training(learning_rate=1.0, schedule="constant")
    assert {learning_rate(constant, step, 20) for step in range(20)} == {1.0}


@pytest.mark.parametrize(
    ("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD), ("momentum", torch.optim.SGD)]
)
def test_optimizers_carry_the_settings(name: str, kind: type) -> None:
    training = Training(optimizer=name, learning_rate=0.1, weight_decay=0.02)  # type: ignore[arg-type]
    optimizer = make_optimizer([torch.zeros(2, requires_grad=True)], training)
    assert isinstance(optimizer, kind)
    assert optimizer.param_groups[0]["weight_decay"] == 0.02
    assert optimizer.param_groups[0].get("nesterov") is {"sgd": True, "momentum": False}.get(name)
    set_learning_rate(optimizer, 0.5)
    assert optimizer.param_groups[0]["lr"] == 0.5
