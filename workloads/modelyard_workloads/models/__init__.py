"""Networks: `nn.Module` only, no data, no files, no distribution."""
