"""Bytes that a model needs and a decode step must move, from its sizes alone. Bytes throughout."""

from bitbench.facts.models import ModelShape
from bitbench.facts.scheme import Scheme

BYTES_16BIT = 2


def embedding_bytes(shape: ModelShape) -> int:
    """One table of vocab_size x hidden_size in 16 bit."""
    return shape.vocab_size * shape.hidden_size * BYTES_16BIT


def small_parameter_bytes(shape: ModelShape) -> int:
    """Norms and biases, 16 bit."""
    per_layer = 2 * shape.hidden_size
    if shape.qkv_bias:
        per_layer += (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim
    if shape.qk_norm:
        per_layer += 2 * shape.head_dim
    return (per_layer * shape.num_layers + shape.hidden_size) * BYTES_16BIT


def weights_bytes(shape: ModelShape, scheme: Scheme) -> int:
    """All weights as stored. An untied model has an embedding and an lm_head, a tied one a single table for both."""
    layer = sum(scheme.linear_bytes(i, o) for _, i, o in shape.linear_shapes)
    head = embedding_bytes(shape) * scheme.lm_head_bits // 16
    embedding = 0 if shape.tied_embeddings else embedding_bytes(shape)
    return layer * shape.num_layers + small_parameter_bytes(shape) + embedding + head


def kv_bytes_per_token(shape: ModelShape) -> int:
    """Keys and values of one token in all layers, 16 bit."""
    return 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim * BYTES_16BIT


def bytes_per_step(weights: int, unread_embedding: int, kv_per_token: int, context: float, batch_size: int) -> int:
    """What one decode step must read: weights as stored and the KV cache of every sequence.

    `unread_embedding` is the size of an untied input embedding, of which a step reads only batch_size rows (neglected);
    0 where it is tied to lm_head and so read whole. `context` is the mean number of tokens in the cache while decoding.
    """
    return int(weights - unread_embedding + kv_per_token * context * batch_size)


def mean_decode_context(prompt_len: float, output_len: int) -> float:
    """Mean tokens in the KV cache over the decode steps: from prompt_len + 1 to prompt_len + output_len - 1."""
    return prompt_len + output_len / 2
