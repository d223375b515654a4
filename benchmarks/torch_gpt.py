"""The model of nanoGPT in torch, to be trained beside ours.

As in karpathy/nanoGPT: learned positions, LayerNorm with bias off, biases off,
GELU, tied embeddings, `scaled_dot_product_attention`, AdamW, clipping at 1.
"""

import torch
from torch import nn
from torch.nn import functional


class Layer(nn.Module):
  """One decoder layer of width D with H heads."""

  def __init__(self, dim: int, heads: int):
    super().__init__()
    self.heads = heads
    self.attention_norm = nn.LayerNorm(dim, bias=False)
    self.qkv = nn.Linear(dim, 3 * dim, bias=False)
    self.out = nn.Linear(dim, dim, bias=False)
    self.mlp_norm = nn.LayerNorm(dim, bias=False)
    self.up = nn.Linear(dim, 4 * dim, bias=False)
    self.down = nn.Linear(4 * dim, dim, bias=False)

  def forward(self, h_BxTxD: torch.Tensor) -> torch.Tensor:
    B, T, D = h_BxTxD.shape
    qkv = self.qkv(self.attention_norm(h_BxTxD))
    q, k, v = qkv.view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
    mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    mixed_BxTxD = mixed.transpose(1, 2).reshape(B, T, D)
    h_BxTxD = h_BxTxD + self.out(mixed_BxTxD)
    up = functional.gelu(self.up(self.mlp_norm(h_BxTxD)))
    return h_BxTxD + self.down(up)


class GPT(nn.Module):
  """Tokens [B, T] and targets to a mean loss."""

  def __init__(
    self, layers: int, dim: int, heads: int, vocab: int, length: int
  ):
    super().__init__()
    self.embed = nn.Embedding(vocab, dim)
    self.positions = nn.Embedding(length, dim)
    self.layers = nn.ModuleList(Layer(dim, heads) for _ in range(layers))
    self.norm = nn.LayerNorm(dim, bias=False)
    nn.init.normal_(self.embed.weight, std=0.02)

  def forward(self, tokens: torch.Tensor, targets: torch.Tensor):
    place_T = torch.arange(tokens.shape[1])
    h_BxTxD = self.embed(tokens) + self.positions(place_T)
    for layer in self.layers:
      h_BxTxD = layer(h_BxTxD)
    logits_BxTxV = self.norm(h_BxTxD) @ self.embed.weight.T
    return functional.cross_entropy(
      logits_BxTxV.flatten(0, 1), targets.flatten()
    )


class Trainer:
  """Calls make one update each."""

  def __init__(self, *shape: int, tokens, targets):
    torch.manual_seed(0)
    self.model = GPT(*shape)
    self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
    self.batch = torch.tensor(tokens), torch.tensor(targets)

  def __call__(self) -> float:
    self.optimizer.zero_grad(set_to_none=True)
    loss = self.model(*self.batch)
    loss.backward()
    nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
    self.optimizer.step()
    return loss.item()
