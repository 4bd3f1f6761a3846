"""Writes a small GGUF file of the Llama architecture with random weights.

    python tiny_model.py OUT.gguf

The model talks nonsense, but the tokenizer, the context, the sampler and the server are real.
"""

from __future__ import annotations

import sys

import gguf
import numpy as np

EMBEDDING, HEADS, FEED_FORWARD, BLOCKS, CONTEXT = 64, 4, 128, 2, 4096


def tokens() -> tuple[list[bytes], list[int]]:
    """Returns a SentencePiece vocabulary and its token types: control tokens, all bytes, and some syllables."""
    kinds = gguf.TokenType
    vocabulary = [(b"<unk>", kinds.UNKNOWN), (b"<s>", kinds.CONTROL), (b"</s>", kinds.CONTROL)]
    vocabulary += [(f"<0x{byte:02X}>".encode(), kinds.BYTE) for byte in range(256)]
    syllables = [consonant + vowel for consonant in "bcdfghjklmnpqrstvwxyz" for vowel in "aeiou"]
    words = [*syllables, *(f"\u2581{syllable}" for syllable in syllables), "\u2581", *"abcdefghijklmnopqrstuvwxyz"]
    vocabulary += [(word.encode(), kinds.NORMAL) for word in words]
    return [token for token, _ in vocabulary], [int(kind) for _, kind in vocabulary]


def main(path: str) -> None:
    """Writes the file."""
    vocabulary, kinds = tokens()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("palaver-tiny-random")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(EMBEDDING)
    writer.add_block_count(BLOCKS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(EMBEDDING // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(vocabulary))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(vocabulary)
    writer.add_token_scores([0.0] * 259 + [-float(rank) for rank in range(len(vocabulary) - 259)])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    random = np.random.default_rng(7)

    def tensor(name: str, *shape: int) -> None:
        writer.add_tensor(name, (random.standard_normal(shape) * 0.2).astype(np.float32))

    tensor("token_embd.weight", len(vocabulary), EMBEDDING)
    tensor("output.weight", len(vocabulary), EMBEDDING)
    writer.add_tensor("output_norm.weight", np.ones(EMBEDDING, np.float32))
    for block in range(BLOCKS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensor(f"blk.{block}.{name}.weight", EMBEDDING, EMBEDDING)
        tensor(f"blk.{block}.ffn_gate.weight", FEED_FORWARD, EMBEDDING)
        tensor(f"blk.{block}.ffn_up.weight", FEED_FORWARD, EMBEDDING)
        tensor(f"blk.{block}.ffn_down.weight", EMBEDDING, FEED_FORWARD)
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{block}.{name}.weight", np.ones(EMBEDDING, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main(sys.argv[1])
