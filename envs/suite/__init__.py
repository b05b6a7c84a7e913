"""Tasks of dm_control for many worlds at once, as functions of tensors."""
