"""A ROS 2 node that acts by an ONNX policy of rlopt: observations come as Float32MultiArray, actions go out as such.

    rlopt export RUN --to onnx --out policy.onnx
    python3 policy_node.py --ros-args -p policy:=policy.onnx -r observation:=/robot/state -r action:=/robot/command

Needs rclpy and std_msgs of ROS 2, onnxruntime and numpy; nothing of rlopt or torch. A message holds the numbers of
every input of the file, in its order, flattened. Frames of a camera belong into an input of their own: subscribe to
sensor_msgs/Image and give the file's input the array (1, H, W, C) of a policy that was exported with --raw-frames.
"""

from __future__ import annotations

import math

import numpy as np
import onnxruntime
import rclpy
from rclpy.node import Node
from std_msgs.msg import Float32MultiArray

TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8,
}


class PolicyNode(Node):
    """Publishes the policy's action for each observation."""

    def __init__(self) -> None:
        super().__init__("rlopt_policy")
        path = self.declare_parameter("policy", "policy.onnx").value
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.inputs = [(each.name, [1, *each.shape[1:]], TYPES[each.type]) for each in self.session.get_inputs()]
        self.size = sum(math.prod(shape) for _, shape, _ in self.inputs)
        self.publisher = self.create_publisher(Float32MultiArray, "action", 1)
        self.create_subscription(Float32MultiArray, "observation", self.act, 1)

    def act(self, message: Float32MultiArray) -> None:
        """Answers one observation."""
        numbers = np.asarray(message.data)
        if len(numbers) != self.size or not np.isfinite(numbers).all():
            self.get_logger().error(f"an observation of {len(numbers)} numbers, or not finite: {self.size} are needed")
            return
        parts, start = {}, 0
        for name, shape, kind in self.inputs:
            stop = start + math.prod(shape)
            parts[name] = numbers[start:stop].astype(kind).reshape(shape)
            start = stop
        (action,) = self.session.run(None, parts)
        self.publisher.publish(Float32MultiArray(data=action.reshape(-1).astype(np.float32).tolist()))


def main() -> None:
    """Spins the node until it is interrupted."""
    rclpy.init()
    node = PolicyNode()
    try:
        rclpy.spin(node)
    except KeyboardInterrupt:
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
