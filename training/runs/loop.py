"""The one training loop: steps, gradient accumulation, mixed precision, checkpoints, resuming, several processes.

Under torchrun it runs on several GPUs or machines: every process takes its share of each step's crops, gradients are
averaged, and the first process writes. A step whose loss or gradients are not finite is left out and counted: the
device decides that, and the host, which runs ahead of a GPU, learns of it once in `log_every` steps.
"""

import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from model.errors import WeightsError
from model.inference.device import Device
from training.batches.schedule import rate_at, share_after_restart, steps_of
from training.compute.compiling import compiled_network
from training.compute.device import layout_of
from training.compute.finite import LeftOut, check_weights
from training.compute.fused_norm import fuse_norms
from training.compute.optimizers import go_on, optimizer_for
from training.compute.recompute import recompute_stages
from training.compute.torchrun import mean_over_processes, processes, rank, time_is_over_in_any_process
from training.runs.run import Run, TrainingProgress, on_gpu
from training.runs.steps import loader, one_step, read_steps
from training.stopping import StoppedInTime
from training.weights.checkpoint import LOG, STATE, cut_log, write_state

LOG_EVERY = 20  # steps between two readings on a GPU, where `log_every` is not set
STATE_KEYS = {"network", "optimizer", "scaler", "loss", "average", "step", "losses", "seconds"}  # of a checkpoint


def train(run: Run, state: dict[str, Any] | None) -> None:
    """Train until the end of epoch `schedule.stop`, from the checkpoint `state` if there is one.

    A run that was killed and resumes ends with the same weights as one that was not. Raises TrainingError, with the
    batch saved, when too many steps in a row are left out because loss or gradients are not finite; and for weights
    that are not finite, before they are averaged or written. Raises WeightsError for a state that is no checkpoint of
    this version.
    """
    settings, steps = run.settings, steps_per_epoch(run)
    stop = settings.schedule.last * steps
    check_state(state, run.folder / STATE)
    progress = begin(run)
    if state is not None:
        resume(run, progress, state)
    elif run.average is not None:
        run.average.update(run.network.state_dict())  # equation 2's first term is theta at t0
    if rank() == 0:
        cut_log(run.folder / LOG, progress.step)
    wrapped: nn.Module = DistributedDataParallel(run.network) if processes() > 1 else run.network
    wrapped = compiled_network(wrapped) if settings.compile else wrapped  # the run's own stays as it is
    saved, every = time.monotonic(), settings.log_every or (LOG_EVERY if on_gpu(run) else 1)
    batches = iter(loader(run, progress.step, stop))
    with tqdm(initial=progress.step, total=stop, unit="step", desc=run.folder.name, disable=rank() != 0) as bar:
        while progress.step < stop:
            rate = rate_at(settings, progress.step / steps) * share_after_restart(run.restarts, progress.step, stop)
            progress.optimizer.param_groups[0]["lr"] = rate  # the loss's own weights keep theirs
            progress.unread.append(one_step(run, wrapped, progress, batches))
            progress.step += 1
            bar.update()
            epoch_ends = progress.step % steps == 0
            look = epoch_ends or progress.step % every == 0  # at the same step in every process
            over = (look or processes() == 1) and time_is_over_in_any_process(run.device)
            look = look or over
            save = epoch_ends or over or (look and time.monotonic() - saved >= 60 * settings.checkpoint_minutes)
            average = settings.averaging is not None and (settings.averaging.per_step or epoch_ends)
            if look and (loss := read_steps(run, progress)) is not None:
                bar.set_postfix(loss=f"{loss:.3f}", **{f"{k}_s": f"{v:.0f}" for k, v in run.seconds.items()})
            if save or (average and look):
                check_weights(run.folder, settings, run.network.state_dict(), progress.step)
            if run.average is not None and average:
                run.average.update(run.network.state_dict(), check=look)
            if epoch_ends:
                end_of_epoch(run, progress.step, rate, progress.losses)
                progress.losses = [0.0, 0]
            if save:
                write_checkpoint(run, progress)
                saved = time.monotonic()
            if over:
                raise StoppedInTime(f"stopped in time: '{run.folder}' is at step {progress.step} of {stop}")


def begin(run: Run) -> TrainingProgress:
    """Put the network on the device, in the layout of the settings, and make its optimizer."""
    settings, device = run.settings, run.device
    viewed = settings.optimizer.name == "adamp" and not on_gpu(run)  # this AdamP's weights must be contiguous
    layout = torch.contiguous_format if viewed else layout_of(settings)
    run.network.to(device.torch_device, memory_format=layout).train()  # type: ignore[call-overload]
    if settings.fixed_statistics:
        fix_statistics(run.network)
    fuse_norms(run.network, settings, device)
    if settings.recompute:
        recompute_stages(run.network)
    optimizer = optimizer_for(run.network.parameters(), settings.optimizer, on_device=on_gpu(run))
    loss = run.loss.to(device.torch_device) if isinstance(run.loss, nn.Module) else nn.Module()
    if any(True for _ in loss.parameters()):
        group = {"params": list(loss.parameters()), "lr": settings.loss.weights_rate, "weight_decay": 0.0}
        optimizer.add_param_group(group)
    scaler = torch.amp.GradScaler(device.torch_device.type, enabled=device.precision == torch.float16)
    return TrainingProgress(optimizer=optimizer, scaler=scaler, loss=loss, step=run.first_epoch * steps_per_epoch(run))


def resume(run: Run, progress: TrainingProgress, state: dict[str, Any]) -> None:
    """Bring the run to where its checkpoint `state` was written."""
    run.network.load_state_dict(state["network"])
    if state["optimizer"]:  # empty where the run went on elsewhere, from weights alone
        go_on(progress.optimizer, state["optimizer"])
    if progress.scaler.is_enabled() and state["scaler"]:  # empty where another precision needed none
        progress.scaler.load_state_dict(state["scaler"])
    progress.loss.load_state_dict(state["loss"])
    progress.step, progress.losses, run.seconds = state["step"], losses_in(state), dict(state["seconds"])
    run.left_out = LeftOut(**state.get("left_out", {}))  # earlier versions left none out
    if run.average is not None:
        run.average.load_state_dict(state["average"])


def write_checkpoint(run: Run, progress: TrainingProgress) -> None:
    """Write, in the first process, all that `resume` needs."""
    if rank() == 0:
        state = {
            "network": run.network.state_dict(),
            "optimizer": progress.optimizer.state_dict(),
            "scaler": progress.scaler.state_dict(),
            "loss": progress.loss.state_dict(),
            "average": run.average.state_dict() if run.average else None,
            "step": progress.step,
            "losses": progress.losses,
            "seconds": run.seconds,
            "left_out": {"epoch": run.left_out.epoch, "run": run.left_out.run},
        }
        write_state(run.folder / STATE, state)


def end_of_epoch(run: Run, step: int, rate: float, losses: list[float]) -> None:
    """Call `run.at_epoch`, and write the epoch's line of log.jsonl."""
    epoch = step // steps_per_epoch(run)
    figures: dict[str, Any] = {"epoch": epoch, "step": step, "loss": mean_loss(losses, run.device), "rate": rate}
    figures |= {f"{name}_s": round(value, 3) for name, value in run.seconds.items()}
    figures |= {"left_out": run.left_out.epoch, "precision": str(run.device.precision).removeprefix("torch.")}
    run.left_out.epoch = 0
    more = run.at_epoch(epoch, figures)  # in every process: they share the validation
    if rank() == 0:
        write_log(run.folder / LOG, figures | more)


def fix_statistics(network: nn.Module) -> None:
    """Let batch normalisation use, and keep, the statistics it has, while the rest of the network trains."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eval()


def losses_in(state: dict[str, Any] | None) -> list[float]:
    """Sum and number of the losses of the epoch begun: those in a checkpoint are the first process's."""
    return list(state["losses"]) if state is not None and rank() == 0 else [0.0, 0]


def check_state(state: Any, path: Path) -> None:
    """Raise WeightsError if a checkpoint read from `path` lacks what a run resumes from. None is no checkpoint."""
    if state is None:
        return
    lacking = sorted(STATE_KEYS - (state.keys() if isinstance(state, dict) else set()))
    if lacking:
        raise WeightsError(
            f"checkpoint '{path}' lacks {', '.join(lacking)}: it is of another version, or of something else; delete "
            "it to start the run anew"
        )


def mean_loss(losses: list[float], device: Device) -> float | None:
    """The mean over all steps of all processes; None if every step was left out.

    After a resumed epoch the first process has more losses than the others.
    """
    total, count = (mean_over_processes(value, device) for value in losses)
    return total / count if count else None


def steps_per_epoch(run: Run) -> int:
    """Optimizer steps of an epoch: as set, or as many as show every study, or slice, once."""
    return steps_of(run.settings, len(run.data), processes())  # type: ignore[arg-type]


def write_log(path: Path, figures: dict[str, Any]) -> None:
    """Add a line to log.jsonl."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(figures) + "\n")
