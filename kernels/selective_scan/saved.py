"""Whether a backward may overwrite a tensor that its forward saved: only where nothing can read it again."""

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode


def used_once(saved: Tensor) -> bool:
    """Say, in an autograd node's backward, whether the node is run this once and then frees `saved`.

    That is known only for ordinary tensors in a pass that keeps no graph. Under tracing, function transforms and other modes what
    runs now is a recipe for later runs, and a CUDA graph may replay a backward more often than its forward: there, no.
    """
    if torch._C._autograd._get_current_graph_task_keep_graph() or torch.is_grad_enabled():
        return False
    if type(saved) is not Tensor or torch._is_functional_tensor(saved) or torch.compiler.is_compiling():
        return False
    if is_in_torch_dispatch_mode() or torch._C._functorch.peek_interpreter_stack() is not None:
        return False
    return not (saved.is_cuda and torch.cuda.is_current_stream_capturing())
