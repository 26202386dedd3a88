"""What is known beforehand: base models, GPU machine types, and how much memory training takes. Never the network."""

from kaito.catalog.memory import adapter_parameters, estimate_tuning_memory, smallest_sku
from kaito.catalog.models import Model, find_model, models, nearest_models
from kaito.catalog.nodes import NodesTooSmallError, estimate_inference_nodes
from kaito.catalog.shapes import Shapes, linear_names, shapes_of
from kaito.catalog.skus import Sku, find_sku, mig_slice_bytes, nearest_skus, skus, supports_bfloat16

__all__ = [
    "Model",
    "NodesTooSmallError",
    "Shapes",
    "Sku",
    "adapter_parameters",
    "estimate_inference_nodes",
    "estimate_tuning_memory",
    "find_model",
    "find_sku",
    "linear_names",
    "mig_slice_bytes",
    "models",
    "nearest_models",
    "nearest_skus",
    "shapes_of",
    "skus",
    "smallest_sku",
    "supports_bfloat16",
]
