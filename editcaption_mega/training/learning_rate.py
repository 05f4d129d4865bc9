"""The learning rate of each step: linear warm-up, then one of four schedules, computed by Megatron-Core's scheduler.

Of step n (from 0), with W warm-up steps, T steps in all, the rates P (peak) and M (least):

    n < W       P (n + 1) / (W + 1): the first step trains, too, where Megatron's own warm-up has rate 0
    constant    P
    linear      M + (P - M) (1 - x),                  x = (n - W) / (T - W)
    cosine      M + (P - M) (1 + cos(pi x)) / 2
    wsd         P up to T - D; then M + (P - M) f(y), y = (n - T + D) / D
                f(y): linear 1 - y, cosine (1 + cos(pi y)) / 2, exponential 2 * 0.5^y - 1, minus_sqrt 1 - sqrt(y)

The last step, T - 1, is one before the least rate. From step W on these are the functions of transformers'
`get_*_schedule`. Warm-up, stable, decay: Hu et al., MiniCPM, 2024; minus_sqrt: Haegele et al., 2024.
"""

from typing import Any

from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

from editcaption_mega.settings import OptimizerSettings


class Schedule(OptimizerParamScheduler):
    """Megatron's, but for the warm-up."""

    def get_lr(self, param_group: dict[str, Any]) -> float:
        if self.num_steps < self.lr_warmup_steps:
            rate: float = param_group.get("max_lr", self.max_lr) * (self.num_steps + 1) / (self.lr_warmup_steps + 1)
        else:
            rate = super().get_lr(param_group)
        return rate


def build_schedule(optimizer: Any, settings: OptimizerSettings, total_steps: int) -> Schedule:
    """The rates of every parameter group of an optimizer, from its first step on. optimizer: has `param_groups`, whose
    `max_lr` and `min_lr`, where there, stand for P and M."""
    warmup = settings.warmup_of(total_steps)
    return Schedule(
        optimizer,
        init_lr=0.0,
        max_lr=settings.learning_rate,
        min_lr=settings.min_learning_rate,
        lr_warmup_steps=warmup,
        lr_decay_steps=max(total_steps, warmup + 1),
        lr_decay_style="WSD" if settings.schedule == "wsd" else settings.schedule,
        start_wd=settings.weight_decay,
        end_wd=settings.weight_decay,
        wd_incr_steps=0,
        wd_incr_style="constant",
        wsd_decay_steps=settings.decay_of(total_steps),
        lr_wsd_decay_style=settings.decay_form,
    )


def schedule_lines(settings: OptimizerSettings, total_steps: int) -> list[str]:
    """What the learning rate does in this run, and a note where its warm-up never ends."""
    warmup, peak = settings.warmup_of(total_steps), settings.learning_rate
    if warmup >= total_steps:
        name = f"warmup_ratio={settings.warmup_ratio}" if settings.warmup_ratio else f"warmup_steps={warmup}"
        return [
            f"note: optimizer.{name} is not below the number of steps ({total_steps}), so the learning rate only "
            f"rises, to {peak * total_steps / (warmup + 1):.3g} at the last step"
        ]
    rises = f"rises from {peak / (warmup + 1):.3g} at step 1 to {peak:.3g} at step {warmup + 1:,}, " if warmup else ""
    if settings.schedule == "constant":
        return [f"learning rate: {rises}stays at {peak:.3g}"]
    least = f"towards {settings.min_learning_rate:.3g} at step {total_steps:,}"
    if settings.schedule != "wsd":
        form = "in a straight line" if settings.schedule == "linear" else "as a cosine"
        return [f"learning rate: {rises}falls from {peak:.3g} {form} {least}"]
    last = total_steps - settings.decay_of(total_steps) + 1
    return [f"learning rate: {rises}stays at {peak:.3g} to step {last:,}, falls ({settings.decay_form}) {least}"]
