"""What enters a CLIP encoder's last layers: transformers' hidden states, whoever else computes with the encoder."""

from __future__ import annotations

import threading

import torch

from drivegen.plugin.clip_layers import before_last_layers, final_norm
from tests.tiny_models import tiny_backbone


@torch.no_grad()
def test_another_thread_with_the_same_encoder_is_not_seen() -> None:
    encoder = tiny_backbone().text_encoder
    ids, others = torch.arange(16)[None], torch.arange(16, 32)[None]
    expected = encoder(ids, output_hidden_states=True).hidden_states[-2]
    main, once = threading.get_ident(), []

    def meanwhile(*given) -> None:
        if threading.get_ident() == main and not once:
            once.append(threading.Thread(target=lambda: encoder(others)))
            once[0].start()
            once[0].join()

    hook = encoder.get_input_embeddings().register_forward_pre_hook(meanwhile)
    try:
        assert torch.equal(before_last_layers(encoder, 1, ids), expected)
    finally:
        hook.remove()
    assert once
    last = encoder(ids, output_hidden_states=True)
    torch.testing.assert_close(final_norm(encoder)(last.hidden_states[-1]), last.last_hidden_state)
