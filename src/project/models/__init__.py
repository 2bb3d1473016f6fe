"""Networks as plain `nn.Module`s."""
