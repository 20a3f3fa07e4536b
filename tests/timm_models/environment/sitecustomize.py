"""Let torchvision's Python code run beside a torch that its compiled library was not built for.

timm imports torchvision for its transforms. Wheels of torchvision are built for the CUDA build of
torch; beside the CPU build their library does not load, and the import fails at the registration
of one operator that nobody then knows. It is declared here; nothing that runs calls it.
"""

import torch

_LIBRARY = torch.library.Library("torchvision", "DEF")
_LIBRARY.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
