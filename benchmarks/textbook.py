"""Attention modules written plainly from the papers: the peers of `attention_modules.py`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Shuffle(nn.Module):
    def __init__(self, channels: int, groups: int = 64) -> None:
        super().__init__()
        self.groups = groups
        half = channels // (2 * groups)
        self.channel_weight = nn.Parameter(torch.zeros(1, half, 1, 1))
        self.channel_bias = nn.Parameter(torch.ones(1, half, 1, 1))
        self.spatial_weight = nn.Parameter(torch.zeros(1, half, 1, 1))
        self.spatial_bias = nn.Parameter(torch.ones(1, half, 1, 1))
        self.norm = nn.GroupNorm(half, half)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        first, second = x.reshape(n * self.groups, -1, h, w).chunk(2, dim=1)
        pooled = F.adaptive_avg_pool2d(first, 1)
        first = first * torch.sigmoid(self.channel_weight * pooled + self.channel_bias)
        second = second * torch.sigmoid(self.spatial_weight * self.norm(second) + self.spatial_bias)
        joined = torch.cat([first, second], dim=1).reshape(n, c, h, w)
        return joined.reshape(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class SE(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(channels, channels // 16)
        self.expand = nn.Linear(channels // 16, channels)

    def gate(self, u: Tensor) -> Tensor:
        return torch.sigmoid(u)

    def forward(self, x: Tensor) -> Tensor:
        n, c, _, _ = x.shape
        pooled = F.adaptive_avg_pool2d(x, 1).reshape(n, c)
        u = self.expand(F.relu(self.reduce(pooled))).reshape(n, c, 1, 1)
        return x * self.gate(u).expand_as(x)


class SubAttentionSE(SE):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.w = nn.Parameter(torch.full((1, channels, 1, 1), 0.5))
        self.b = nn.Parameter(torch.full((1, channels, 1, 1), -0.5))

    def gate(self, u: Tensor) -> Tensor:
        return torch.sigmoid(u) * torch.sigmoid(self.w * u + self.b)


class ECA(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 5, padding=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.adaptive_avg_pool2d(x, 1)  # (N, C, 1, 1)
        u = self.conv(pooled.squeeze(-1).transpose(1, 2)).transpose(1, 2).unsqueeze(-1)
        return x * torch.sigmoid(u).expand_as(x)


class SRM(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(channels, 2))
        self.norm = nn.BatchNorm1d(channels)

    def forward(self, x: Tensor) -> Tensor:
        n, c, _, _ = x.shape
        flat = x.reshape(n, c, -1)
        style = torch.stack([flat.mean(2), (flat.var(2) + 1e-5).sqrt()], dim=2)
        u = self.norm((style * self.weights).sum(2)).reshape(n, c, 1, 1)
        return x * torch.sigmoid(u)


class CBAM(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(channels, channels // 16), nn.ReLU(), nn.Linear(channels // 16, channels))
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.norm = nn.BatchNorm2d(1)

    def forward(self, x: Tensor) -> Tensor:
        n, c, _, _ = x.shape
        mean, top = F.adaptive_avg_pool2d(x, 1).reshape(n, c), F.adaptive_max_pool2d(x, 1).reshape(n, c)
        x = x * torch.sigmoid(self.mlp(mean) + self.mlp(top)).reshape(n, c, 1, 1)
        maps = torch.cat([x.max(1, keepdim=True).values, x.mean(1, keepdim=True)], dim=1)
        return x * torch.sigmoid(self.norm(self.conv(maps)))


class SGE(nn.Module):
    def __init__(self, channels: int, groups: int = 64) -> None:
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.zeros(1, groups, 1, 1))
        self.bias = nn.Parameter(torch.ones(1, groups, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.reshape(n * self.groups, -1, h, w)
        t = (x * F.adaptive_avg_pool2d(x, 1)).sum(1, keepdim=True).reshape(n * self.groups, -1)
        t = t - t.mean(1, keepdim=True)
        t = t / (t.std(1, keepdim=True) + 1e-5)
        u = (t.reshape(n, self.groups, h, w) * self.weight + self.bias).reshape(n * self.groups, 1, h, w)
        return (x * torch.sigmoid(u)).reshape(n, c, h, w)


class Coordinate(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(8, channels // 32)
        self.mix = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.BatchNorm2d(hidden), nn.Hardswish())
        self.to_rows, self.to_columns = nn.Conv2d(hidden, channels, 1), nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        _, _, h, w = x.shape
        rows = F.adaptive_avg_pool2d(x, (h, 1))
        columns = F.adaptive_avg_pool2d(x, (1, w)).transpose(2, 3)
        rows, columns = self.mix(torch.cat([rows, columns], dim=2)).split([h, w], dim=2)
        return x * torch.sigmoid(self.to_columns(columns.transpose(2, 3))) * torch.sigmoid(self.to_rows(rows))


class GlobalContext(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = channels // 16
        self.key = nn.Conv2d(channels, 1, 1)
        self.transform = nn.Sequential(
            nn.Conv2d(channels, hidden, 1), nn.LayerNorm([hidden, 1, 1]), nn.ReLU(), nn.Conv2d(hidden, channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        weights = torch.softmax(self.key(x).reshape(n, 1, h * w), dim=2)
        context = torch.matmul(x.reshape(n, c, h * w), weights.transpose(1, 2)).reshape(n, c, 1, 1)
        return x + self.transform(context)
