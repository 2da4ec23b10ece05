"""The losses that src/main.rs is compared with, by PyTorch 2.15.0 in float64: run `python reference.py`."""
import torch
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)


def numbers(seed, scale, *shape):
    count = torch.Size(shape).numel()
    return (((torch.arange(count) + seed) * 7919 % 2001 / 1000 - 1) * scale).reshape(shape)


x, labels = numbers(1, 1, 64, 12, 12, 1), torch.arange(64) * 7 % 10
kernels = [numbers(2, .3, 3, 3, 1, 8), numbers(3, .1, 3, 3, 8, 16)]
biases = [torch.zeros(8), torch.zeros(16), torch.zeros(10)]
gamma, beta, dense = torch.ones(16), torch.zeros(16), numbers(4, .1, 144, 10)
params = [p.requires_grad_() for p in kernels + biases + [gamma, beta, dense]]
for step in range(8):
    first, second = (kernel.permute(3, 2, 0, 1) for kernel in kernels)
    y = F.max_pool2d(F.relu(F.conv2d(x.permute(0, 3, 1, 2), first, biases[0], padding=1)), 2)
    y = F.batch_norm(F.conv2d(y, second, biases[1], padding=1), None, None, gamma, beta, True, 0, 1e-5)
    y = F.max_pool2d(F.relu(y), 2).permute(0, 2, 3, 1).reshape(64, 144)
    loss = F.cross_entropy(y @ dense + biases[2], labels)
    gradients = torch.autograd.grad(loss, params)
    print(round(loss.item(), 6))
    with torch.no_grad():
        for p, gradient in zip(params, gradients):
            p -= .1 * gradient
