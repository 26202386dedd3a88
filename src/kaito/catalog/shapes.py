"""The shapes of a base model that decide how much memory its training takes: as known, or fitted to its size."""

from __future__ import annotations

from dataclasses import dataclass, field

from kaito.catalog.models import Model

# The linear layers of one decoder layer, (input, output) by name, in widths of h(idden), i(ntermediate), q(uery),
# k(ey and value each). transformers' modelling code of each architecture.
_SPLIT = {
    "q_proj": ("h", "q"),
    "k_proj": ("h", "k"),
    "v_proj": ("h", "k"),
    "o_proj": ("q", "h"),
    "gate_proj": ("h", "i"),
    "up_proj": ("h", "i"),
    "down_proj": ("i", "h"),
}
_LINEARS = {
    "Phi3ForCausalLM": {
        "qkv_proj": ("h", "qkk"),
        "o_proj": ("q", "h"),
        "gate_up_proj": ("h", "ii"),
        "down_proj": ("i", "h"),
    },
    "FalconForCausalLM": {
        "query_key_value": ("h", "qkk"),
        "dense": ("q", "h"),
        "dense_h_to_4h": ("h", "i"),
        "dense_4h_to_h": ("i", "h"),
    },
    "PhiForCausalLM": {
        "q_proj": ("h", "q"),
        "k_proj": ("h", "k"),
        "v_proj": ("h", "k"),
        "dense": ("q", "h"),
        "fc1": ("h", "i"),
        "fc2": ("i", "h"),
    },
}
_SPLIT_ARCHITECTURES = frozenset(
    {"GraniteForCausalLM", "LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"}
)

# Where shapes are missing: a decoder of p parameters is taken for one whose width is _ASPECT times its depth, with
# 12 h² parameters a layer; Llama's and Mistral's feed-forward and key-value ratios; a vocabulary of Llama 3's size.
_ASPECT = 128
_LAYER_PARAMETERS = 12
_FEED_FORWARD = 3.5
_KEY_VALUE = 0.25
_VOCABULARY = 131072
_NOMINAL = 0.15  # how far the number in a name is from the truth
_QUANTIZED_BYTES = {"awq/4": 0.6, "gptq/4": 0.6, "mxfp4": 0.6, "nvfp4-pack-quantized": 0.6, "pack-quantized": 0.6}
_MISMATCH = 0.3  # shapes that explain the parameters no better than this are not those of a dense decoder


@dataclass(frozen=True, slots=True)
class Shapes:
    """A dense decoder. Widths in elements; `query` and `key_value` are those of all heads together.

    other_parameters: embeddings, norms, the language model's head: what is never quantised
    linears: (input, output) width of each linear layer of one decoder layer, by its module's name
    rough: some of it is fitted to the number of parameters, or does not explain that number (experts, vision towers)
    """

    layers: int
    hidden: int
    intermediate: int
    query: int
    key_value: int
    vocab: int
    other_parameters: int
    linears: dict[str, tuple[int, int]] = field(hash=False)
    rough: bool

    @property
    def linear_parameters(self) -> int:
        return self.layers * sum(width * height for width, height in self.linears.values())

    @property
    def parameters(self) -> int:
        return self.linear_parameters + self.other_parameters


def linear_names(architecture: str) -> frozenset[str]:
    """The names of the linear layers of a decoder layer; empty where the architecture's are not known for certain."""
    return frozenset(_LINEARS.get(architecture, _SPLIT if architecture in _SPLIT_ARCHITECTURES else ()))


def shapes_of(model: Model) -> Shapes | None:
    """The shapes of a model, those that are not known fitted to its parameters; None if these are not known either."""
    parameters = count_parameters(model)
    layers, hidden, intermediate, vocab = model.layers, model.hidden, model.intermediate, model.vocab
    known = bool(layers and hidden and intermediate and vocab and model.kv_bytes_per_token)
    if not (parameters or (layers and hidden)):
        return None

    if not hidden:
        hidden = round((parameters * _ASPECT / _LAYER_PARAMETERS) ** (1 / 3) / 64) * 64 or 64
    layers = layers or max(1, round(hidden / _ASPECT))
    intermediate = intermediate or round(_FEED_FORWARD * hidden)
    vocab = vocab or _VOCABULARY
    query = model.heads * model.head_dim or hidden
    # Keys and values of two bytes an element: a quarter is the width of one of them.
    key_value = min(model.kv_bytes_per_token // (4 * layers) or round(_KEY_VALUE * hidden), query)

    widths = {"h": hidden, "i": intermediate, "q": query, "k": key_value}
    linears = {
        name: (widths[source], sum(widths[letter] for letter in target))
        for name, (source, target) in _LINEARS.get(model.architecture, _SPLIT).items()
    }
    linear = layers * sum(width * height for width, height in linears.values())
    embeddings = vocab * hidden  # once where the head shares them, else twice
    least, most = (1 - _MISMATCH) * (linear + embeddings), (1 + _MISMATCH) * (linear + 2 * embeddings)
    explained = not parameters or least <= parameters <= most
    other = max(parameters - linear, embeddings) if parameters else 2 * embeddings
    rough = not known or not explained or bool(model.quantization)
    return Shapes(layers, hidden, intermediate, query, key_value, vocab, other, linears, rough)


def count_parameters(model: Model) -> int:
    """As exactly as it is known: 16-bit weight files count them, where that agrees with the nominal number."""
    if model.quantization:
        return model.parameters or round(model.bytes / _QUANTIZED_BYTES.get(model.quantization, 1.0))
    by_size = model.bytes // 2
    if not model.parameters or abs(by_size - model.parameters) <= _NOMINAL * model.parameters:
        return by_size
    return model.parameters
