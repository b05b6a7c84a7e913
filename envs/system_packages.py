"""What Debian and Ubuntu call the packages of the system that drawing needs. Imports nothing, for ``rlopt doctor``."""

APT_EGL = "libegl1 libopengl0 libgl1-mesa-dri"
"""What ``MUJOCO_GL=egl`` and EnvPool need (the last one only without a GPU driver)."""
APT_OSMESA = "libosmesa6"
"""What ``MUJOCO_GL=osmesa`` needs."""
