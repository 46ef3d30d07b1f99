"""What the engines must find in the environment: secrets, the network, the GPUs."""

from collections.abc import Mapping

from terascope.planner.hardware import Cluster

KEY = "VLLM_API_KEY"
"""vLLM reads its secret from here; SGLang takes one on the command line only, where others would see it."""
VISIBLE: Mapping[str, str] = {
    "nvidia": "CUDA_VISIBLE_DEVICES",
    "amd": "HIP_VISIBLE_DEVICES",
    "intel": "ZE_AFFINITY_MASK",
}
"""Which variable chooses GPUs, by vendor."""
IMAGES: Mapping[tuple[str, str], str] = {
    ("vllm", "nvidia"): "vllm/vllm-openai:v0.19.0",
    ("vllm", "amd"): "rocm/vllm:latest",
    ("vllm", "intel"): "intel/vllm:latest",
    ("sglang", "nvidia"): "lmsysorg/sglang:v0.5.10",
    ("sglang", "amd"): "lmsysorg/sglang:v0.5.10-rocm700-mi30x",
}
"""Container images by engine and vendor: a start, to be replaced by what the site has."""
ROUTERS: Mapping[str, str] = {"vllm": "vllm-router==0.1.17", "sglang": "sglang-router==0.3.2"}
"""Packages of the routers that send prompts and answers to copies of their own, by engine."""
RESOURCES: Mapping[str, str] = {"nvidia": "nvidia.com/gpu", "amd": "amd.com/gpu", "intel": "gpu.intel.com/xe"}
"""What Kubernetes calls a GPU, by vendor."""

_SLINGSHOT = {
    "NCCL_NET": "AWS Libfabric",  # the plugin that brings NCCL to Slingshot; the site's module provides it
    "NCCL_CROSS_NIC": "1",
    "NCCL_SOCKET_IFNAME": "hsn",
    "GLOO_SOCKET_IFNAME": "hsn0",
    "FI_CXI_DISABLE_HOST_REGISTER": "1",
    "FI_MR_CACHE_MONITOR": "userfaultfd",
}
_INFINIBAND = {"NCCL_SOCKET_IFNAME": "ib", "NCCL_IB_HCA": "mlx5"}
_ONEAPI = {"ZE_FLAT_DEVICE_HIERARCHY": "FLAT", "CCL_PROCESS_LAUNCHER": "none", "FI_MR_CACHE_MONITOR": "userfaultfd"}


def fabric(cluster: Cluster) -> Mapping[str, str]:
    """Variables for the network and the GPUs of `cluster`, by name."""
    network = {"slingshot": _SLINGSHOT, "infiniband": _INFINIBAND}.get(cluster.fabric, {})
    if cluster.gpu.vendor == "intel":  # oneCCL, not NCCL
        return _ONEAPI
    return network
