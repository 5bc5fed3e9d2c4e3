"""Texts as sequences of words."""

from __future__ import annotations

import torch

from tasks.text.corpus import PADDING, chunks, parts, streams


def test_every_word_is_a_target_once_and_the_word_before_it_the_input() -> None:
    words = torch.arange(1, 12)
    for text_, shape in ((streams(words, 0, 3), (3, 4)), (chunks(words, 0, 5), (3, 5))):
        assert text_.tokens.shape == text_.targets.shape == shape
        counted = text_.targets.flatten() != PADDING
        assert text_.targets.flatten()[counted].tolist() == list(range(1, 12))
        assert text_.tokens.flatten()[counted].tolist() == list(range(11))
    split = list(parts(streams(words, 0, 3), 3, 1))
    assert [p.tokens.shape for p in split] == [(3, 3), (3, 1)]
    assert split[1].targets.tolist() == [[4], [8], [PADDING]]
