"""Wake a GPU while the study is read, so that the first window does not wait for its libraries."""

import torch

from model.bundle.format import Manifest
from model.inference.device import Device, computing, is_out_of_memory
from model.inference.windows import windows_at_a_time
from model.networks import for_device, slabs
from model.networks.unet import skeleton


def warm_up(manifest: Manifest, device: Device) -> None:
    """Run windows of zeros through the first network, all weights zero, as many at a time as memory allows.

    On a CPU, for a network for slices or a SwinUNETR, and where memory is short, nothing happens.
    """
    part = manifest.part(manifest.members[0])
    if device.torch_device.type != "cuda" or part.network.kind != "volumes" or part.network.fusion == "swin_unetr":
        return
    try:
        network = skeleton(part.network).eval()
        shapes = {name: one.shape for name, one in network.state_dict().items()}  # to_empty would load torch's compiler
        zeros = {name: torch.zeros(shape, device=device.torch_device) for name, shape in shapes.items()}
        network.load_state_dict(zeros, assign=True)
        count = windows_at_a_time(device, [part], part.window.size)
        image = torch.zeros(count, part.network.image_channels, *part.window.size, device=device.torch_device)
        with computing(device):
            slabs.forward(for_device.prepared(network, device.torch_device, device.precision), image)
        torch.cuda.synchronize()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        torch.cuda.empty_cache()
